package keeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

const (
	// maxLine bounds a line of a worker's log in bytes; the rest of a longer one is dropped.
	maxLine = 4 << 10
	// linesPerSecond bounds what a worker can make the keeper log. A panic's trace fits.
	linesPerSecond = 200
)

// relayLog logs what a worker writes to its standard error, until it ends: its log lines (JSON of slog) as such, others, as
// a panic's trace, as text. The last error is kept in last.
func relayLog(from io.ReadCloser, log *slog.Logger, last *lastWords) {
	defer from.Close()
	reader := bufio.NewReaderSize(from, maxLine)
	var window time.Time
	lines, dropped := 0, 0
	for {
		line, err := readLine(reader)
		if err != nil {
			return
		}
		if now := time.Now(); now.Sub(window) > time.Second {
			if dropped > 0 {
				log.Warn("lines of the worker's log were dropped, there were too many", "lines", dropped)
			}
			window, lines, dropped = now, 0, 0
		}
		if lines++; lines > linesPerSecond {
			dropped++
			continue
		}
		relayLine(line, log, last)
	}
}

// readLine reads a line without its end, cut to the size of the reader.
func readLine(r *bufio.Reader) (string, error) {
	slice, err := r.ReadSlice('\n')
	line := strings.TrimRight(string(slice), "\n")
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.ReadSlice('\n')
	}
	if errors.Is(err, io.EOF) && line != "" {
		return line, nil
	}
	return line, err
}

// relayLine logs one line.
func relayLine(line string, log *slog.Logger, last *lastWords) {
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); err != nil || fields[slog.MessageKey] == nil {
		// The first line of a trace says why, the following ones where.
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || last.text() == "" {
			last.set(line)
		}
		log.Error("worker wrote", "line", line)
		return
	}
	message, _ := fields[slog.MessageKey].(string)
	name, _ := fields[slog.LevelKey].(string)
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err != nil {
		level = slog.LevelInfo
	}
	delete(fields, slog.MessageKey)
	delete(fields, slog.LevelKey)
	delete(fields, slog.TimeKey)
	keys := make([]string, 0, len(fields))
	for key := range fields {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	attrs := make([]slog.Attr, 0, len(keys))
	for _, key := range keys {
		attrs = append(attrs, slog.Any(key, fields[key]))
	}
	if level >= slog.LevelError {
		words := message
		if text, ok := fields["error"].(string); ok {
			words += ": " + text
		}
		last.set(words)
	}
	log.LogAttrs(context.Background(), level, message, attrs...)
}
