package tlsproxy_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"salp/internal/listen"
)

var _ listen.Server

// h2specVersion is the version of the conformance tests of RFC 7540 and 7541 that the listener must pass.
const h2specVersion = "v2.2.1+incompatible"

// deviations are the tests of h2spec in which net/http does otherwise, on purpose, and why that will do.
var deviations = []string{
	"Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE",                                        // it takes a setting that is there twice for an attack and closes
	"Sends a HEADERS frame that contains the connection-specific header field",                     // it answers 400, as RFC 9113 8.1.1 permits, where RFC 7540 did not say so
	`Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`, // the same
}

// The TLS listener passes h2spec. It is built from the Go module proxy, and the test skipped where that cannot be reached.
func TestH2Spec(t *testing.T) {
	if testing.Short() {
		t.Skip("builds h2spec and takes half a minute")
	}
	bin := t.TempDir()
	build := exec.Command("go", "install", "github.com/summerwind/h2spec/cmd/h2spec@"+h2specVersion)
	build.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=mod")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("h2spec cannot be built here: %v\n%s", err, out)
	}
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		echo(w, q)
		fmt.Fprintln(w, "hello")
	}))
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		t.Fatal(err)
	}
	spec := exec.Command(filepath.Join(bin, "h2spec"), "-h", host, "-p", port, "-t", "-k", "-o", "3")
	begin := time.Now()
	out, err := spec.CombinedOutput()
	failed := 0
	for _, test := range deviations {
		failed += bytes.Count(out, []byte(": "+test+"\n")) / 2 // once where it is run, and once among the failures
	}
	summary := regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`).FindSubmatch(out)
	if summary == nil || string(summary[4]) != fmt.Sprint(failed) {
		if i := bytes.Index(out, []byte("Failures:")); i >= 0 {
			out = out[i:]
		}
		t.Fatalf("%v after %v\n%s", err, time.Since(begin), out)
	}
	t.Logf("%s in %v", summary[0], time.Since(begin).Round(time.Second))
}
