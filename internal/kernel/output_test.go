package kernel

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// output gathers what another process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// await waits until the process has written the words.
func (o *output) await(t *testing.T, words string) {
	t.Helper()
	within(t, 10*time.Second, "the other process to write "+words, func() bool { return strings.Contains(o.String(), words) })
}

// within waits for something to become true and returns how long that took.
func within(t *testing.T, bound time.Duration, what string, is func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > bound {
			t.Fatalf("waited %v for %s", bound, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}
