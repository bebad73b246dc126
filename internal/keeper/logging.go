package keeper

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"salp/internal/config"
)

// logSink is where log lines go. Loggers made from it follow when a reload changes the format or the level.
type logSink struct {
	out io.Writer
	now atomic.Pointer[slog.Handler]
}

func newLogSink(out io.Writer, settings config.Logs) *logSink {
	s := &logSink{out: out}
	s.set(settings)
	return s
}

func (s *logSink) set(settings config.Logs) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(settings.Level)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(s.out, options)
	if settings.Format == config.LogJSON {
		h = slog.NewJSONHandler(s.out, options)
	}
	s.now.Store(&h)
}

func (s *logSink) logger() *slog.Logger { return slog.New(&sinkHandler{sink: s}) }

// sinkHandler asks the sink for its handler at each line, and repeats on it what was said to the logger (slog.Handler).
type sinkHandler struct {
	sink  *logSink
	steps []func(slog.Handler) slog.Handler
}

func (h *sinkHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return (*h.sink.now.Load()).Enabled(ctx, level)
}

func (h *sinkHandler) Handle(ctx context.Context, r slog.Record) error {
	to := *h.sink.now.Load()
	for _, step := range h.steps {
		to = step(to)
	}
	return to.Handle(ctx, r)
}

func (h *sinkHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

func (h *sinkHandler) WithGroup(name string) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h *sinkHandler) with(step func(slog.Handler) slog.Handler) slog.Handler {
	steps := append(append([]func(slog.Handler) slog.Handler(nil), h.steps...), step)
	return &sinkHandler{sink: h.sink, steps: steps}
}
