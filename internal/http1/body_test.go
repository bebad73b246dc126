package http1

import (
	"strings"
	"testing"
)

var small = Limits{Line: 100, Head: 200, Fields: 3}

func TestChunkedBodies(t *testing.T) {
	const end = "0\r\n\r\n"
	for _, test := range []struct {
		text    string
		content string
		rest    string // what follows the body
		want    *Error
	}{
		{end, "", "", nil},
		{"5\r\nhello\r\n" + end + "GET", "hello", "GET", nil},
		{"1\r\na\r\n00A\r\n0123456789\r\n" + end, "a0123456789", "", nil},
		{"a;x=y;z=\"q;\xff\"\r\n0123456789\r\n" + end, "0123456789", "", nil},
		{"1 ;x\r\na\r\n" + end, "", "", ErrChunkSize},
		{"1\r\na\r\n0\r\nA: b\r\nC:\r\n\r\nx", "a", "x", nil},
		{"1\r\na\r\n000000\r\n\r\nx", "a", "x", nil},
		{"\r\n", "", "", ErrChunkSize},
		{"g\r\n", "", "", ErrChunkSize},
		{"0x5\r\n", "", "", ErrChunkSize},
		{"+5\r\n", "", "", ErrChunkSize},
		{"-5\r\n", "", "", ErrChunkSize},
		{" 5\r\n", "", "", ErrChunkSize},
		{"5 \r\nhello\r\n", "", "", ErrChunkSize},
		{"5 5\r\n", "", "", ErrChunkSize},
		{"5_0\r\n", "", "", ErrChunkSize},
		{"5,5\r\n", "", "", ErrChunkSize},
		{";x\r\n", "", "", ErrChunkSize},
		{"5\nhello\r\n", "", "", ErrBareLF},
		{"5;x\nhello\r\n", "", "", ErrControl},
		{"5;x\ry\r\nhello\r\n", "", "", ErrBareCR},
		{"5\rhello", "", "", ErrBareCR},
		{"5;\x00\r\n", "", "", ErrControl},
		{"FFFFFFFFFFFFFFFF\r\n", "", "", ErrChunkTooLarge},
		{"10000000000000005\r\n", "", "", ErrChunkTooLarge},
		{"0000000000000000\r\n", "", "", ErrChunkTooLarge},
		{"5;" + strings.Repeat("x", 1100) + "\r\n", "", "", ErrChunkLine},
		{"5\r\nhelloX", "hello", "", ErrChunkEnd},
		{"5\r\nhello\n", "hello", "", ErrChunkEnd},
		{"5\r\nhello\rX", "hello", "", ErrChunkEnd},
		{"5\r\nhello5\r\n", "hello", "", ErrChunkEnd},
		{"0\r\n\n", "", "", ErrBareLF},
		{"0\r\n\rX", "", "", ErrBareCR},
		{"0\r\nA\r\n\r\n", "", "", ErrControl},
		{"0\r\nA : b\r\n\r\n", "", "", ErrTrailer},
		{"0\r\n A: b\r\n\r\n", "", "", ErrTrailer},
		{"0\r\nA: b\n\r\n", "", "", ErrBareLF},
		{"0\r\nA: b\rc\r\n", "", "", ErrBareCR},
		{"0\r\nA: b\x00\r\n", "", "", ErrControl},
		{"0\r\n: b\r\n\r\n", "", "", ErrTrailer},
		{"0\r\nA: " + strings.Repeat("b", 300) + "\r\n\r\n", "", "", ErrTrailerLarge},
		{"0\r\nA:\r\nB:\r\nC:\r\nD:\r\n\r\n", "", "", ErrTrailerLarge},
	} {
		b := Body{kind: chunked}
		var content strings.Builder
		n, err := b.Next([]byte(test.text), &small, func(p []byte) { content.Write(p) })
		if err != test.want || content.String() != test.content {
			t.Errorf("%.60q: %q %v, want %q %v", test.text, content.String(), err, test.content, test.want)
			continue
		}
		if err == nil && (!b.Done() || test.text[n:] != test.rest) {
			t.Errorf("%.60q: done %v, rest %q", test.text, b.Done(), test.text[n:])
		}
	}
	b := Body{kind: chunked, answer: true}
	if _, err := b.Next([]byte("5 \t \r\nhello\r\n"+end), &small, nil); err != nil || !b.Done() {
		t.Errorf("a server that pads its sizes: %v", err)
	}
	b = Body{kind: chunked, answer: true}
	if _, err := b.Next([]byte("5 ;x\r\nhello\r\n"+end), &small, nil); err != nil || !b.Done() {
		t.Errorf("a server that pads its extensions: %v", err)
	}
}

func TestSkip(t *testing.T) {
	b := Body{kind: chunked}
	if b.Next([]byte("10\r\nab"), &small, nil); b.Left() != 14 {
		t.Fatalf("left %d", b.Left())
	}
	b.Skip(14)
	if n, err := b.Next([]byte("\r\n0\r\n\r\n"), &small, nil); n != 7 || err != nil || !b.Done() {
		t.Errorf("%d %v %v", n, err, b.Done())
	}
	b = Body{kind: counted, left: 5}
	b.Skip(5)
	if !b.Done() {
		t.Error("a body that was skipped is not done")
	}
}
