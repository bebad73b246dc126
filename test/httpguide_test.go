package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"salp/internal/admin"
	"salp/internal/lab"
)

// TestHTTPGuide runs every configuration of docs/http.md, with the interfaces and addresses of this network and the files that it names, and sends each listener a
// connection.
func TestHTTPGuide(t *testing.T) {
	blocks := fileBlocks(t, "../docs/http.md")
	if len(blocks) < 6 {
		t.Fatalf("%d blocks", len(blocks))
	}
	r := newRig(t, 1)
	r.writeCertificate("www", "www.example")
	r.writeCertificate("img", "img.example")
	for name, text := range map[string]string{"users": "alice:$2y$05$KOdzF1Kuhmsc6bSh9UuZvOnYcZqi1nRQPCSYLsvy.2KdSxLdzxQjC\n", "tracking.txt": ".tracking.example\n", "guests.txt": "10.0.9.0/24\n"} {
		r.must(os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600))
	}
	for _, port := range []string{"80", "443"} {
		_, err := r.net.Server().Serve("10.0.2.2:"+port, lab.HTTP(10))
		r.must(err)
	}
	here := strings.NewReplacer("eth0", "g0", "192.0.2.1", "10.0.1.1", "/var/log/salp/", r.dir+"/")
	for i, block := range blocks {
		s := r.start(here.Replace(block))
		st := s.await("running", func(st *admin.Status) bool { return st.State == admin.StateRunning && st.Alive })
		for _, l := range st.Listeners {
			to := "10.0.2.2:80"
			switch {
			case l.Name == "tls":
				to = "10.0.2.2:443"
			case len(l.Addresses) > 0:
				to = l.Addresses[0]
			}
			c, err := r.net.Client().Dial(to)
			if err != nil {
				t.Errorf("block %d: %s at %s: %v\n%s", i+1, l.Name, to, err, block)
				continue
			}
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: www.example\r\nConnection: close\r\n\r\n")
			c.Close()
		}
		s.await("every listener has had its connection", func(st *admin.Status) bool {
			for _, l := range st.Listeners {
				if l.Counters.Accepted == 0 {
					return false
				}
			}
			return true
		})
		s.stop()
	}
}
