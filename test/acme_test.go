package test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salp/internal/admin"
	"salp/internal/lab"
)

// pebbleVersion is the version of Let's Encrypt's small ACME server that the test has certificates from.
const pebbleVersion = "v2.10.1"

// buildPebble builds the authority from the Go module proxy, and skips the test where that cannot be reached.
func (r *rig) buildPebble() string {
	r.Helper()
	cmd := exec.Command("go", "install", "github.com/letsencrypt/pebble/v2/cmd/pebble@"+pebbleVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+r.dir, "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Skipf("skipped: pebble cannot be built here: %v\n%s", err, out)
	}
	return filepath.Join(r.dir, "pebble")
}

// startPebble starts the authority on the server; names it looks up by the server's DNS.
func (r *rig) startPebble(binary string) *lab.Process {
	r.Helper()
	r.writeCertificate("authority", "10.0.2.2")
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": "10.0.2.2:14000", "managementListenAddress": "", "certificate": filepath.Join(r.dir, "authority.pem"), "privateKey": filepath.Join(r.dir, "authority.key"),
		"httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": false,
	}})
	r.must(err)
	file := filepath.Join(r.dir, "pebble.json")
	r.must(os.WriteFile(file, config, 0o600))
	cmd := exec.Command("env", "PEBBLE_VA_NOSLEEP=1", binary, "-config", file, "-dnsserver", "10.0.2.2:53") // it refuses a nonce now and then, as authorities may
	log := &lab.Log{}
	cmd.Stdout, cmd.Stderr = log, log
	p, err := r.net.Server().Start(cmd)
	r.must(err)
	r.Cleanup(func() {
		if r.Failed() {
			r.Logf("pebble:\n%s", log)
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if c, err := r.net.Gateway.Dial("10.0.2.2:14000"); err == nil {
			c.Close()
			return p
		}
		if time.Now().After(end) {
			r.Fatalf("pebble does not listen\n%s", log)
		}
	}
}

// acmeLeaf waits until the listener has a certificate for the name, and returns it.
func (r *rig) acmeLeaf(name string) *x509.Certificate {
	r.Helper()
	for end := time.Now().Add(2 * patience); ; time.Sleep(50 * time.Millisecond) {
		conn, err := r.net.Client().Dial("10.0.1.1:443")
		r.must(err)
		r.must(conn.SetDeadline(time.Now().Add(patience)))
		c := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err = c.Handshake(); err == nil {
			leaf := c.ConnectionState().PeerCertificates[0]
			c.Close()
			return leaf
		}
		conn.Close()
		if time.Now().After(end) {
			r.Fatalf("no certificate for %s: %v", name, err)
		}
	}
}

// TestACMEGateway: a gateway gets its certificates from an authority that asks it back by tls-alpn-01, though the worker is nobody; it keeps them over a
// restart without the authority, and a reload gets one for a further name.
func TestACMEGateway(t *testing.T) {
	r := newRig(t, 1)
	binary := r.buildPebble()
	dns, err := r.net.Server().ServeDNS("10.0.2.2:53")
	r.must(err)
	for _, name := range []string{"www.acme.example", "img.acme.example"} {
		dns.Set(name, time.Minute, "10.0.2.1")
	}
	pebble := r.startPebble(binary)
	r.serve(80, tellHTTP)
	config := func(names string) string {
		return fmt.Sprintf(`
listeners:
  www:
    listen: ["10.0.1.1:443", "10.0.2.1:443"]
    protocol: http
    pool: p
    tls: {acme: {names: [%s], directory: "https://10.0.2.2:14000/dir", authority: authority.pem, state: %s/var/acme}}
pools: {p: {servers: ["10.0.2.2:80"]}}
`, names, r.dir)
	}
	s := r.start(config("www.acme.example"))
	first := r.acmeLeaf("www.acme.example")
	if !strings.Contains(first.Issuer.CommonName, "Pebble") || first.VerifyHostname("www.acme.example") != nil {
		t.Errorf("the certificate is for %v, by %s", first.DNSNames, first.Issuer)
	}
	client := r.httpsClient("10.0.1.1:443", nil, true)
	client.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // pebble makes its root anew each time, and its leaf was looked at
	a, err := client.Get("https://www.acme.example/")
	r.must(err)
	a.Body.Close()
	if a.StatusCode != 200 || a.ProtoMajor != 2 {
		t.Errorf("%s %s", a.Proto, a.Status)
	}
	info, err := os.Stat(filepath.Join(r.dir, "var", "acme"))
	r.must(err)
	if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o700 || st.Uid == 0 {
		t.Errorf("the state directory is user %d's, with mode %v", st.Uid, info.Mode())
	}
	if log := s.log.String(); !strings.Contains(log, "got a certificate by ACME") {
		t.Errorf("the log does not tell:\n%s", log)
	}

	r.writeConfig(config("www.acme.example, img.acme.example"))
	if out, code := r.command("reload", "--run-dir", s.dir); code != 0 {
		t.Fatalf("reload: %d %s", code, out)
	}
	s.await("reloaded", func(st *admin.Status) bool { return serves(st) && st.Generation == 2 })
	if err := r.acmeLeaf("img.acme.example").VerifyHostname("img.acme.example"); err != nil {
		t.Error(err)
	}
	if again := r.acmeLeaf("www.acme.example"); again.SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Error("a reload has the certificate issued again")
	}

	s.stop()
	_ = pebble.Stop(time.Second) // it does not end as one asks it to
	s = r.start(config("www.acme.example, img.acme.example"))
	if again := r.acmeLeaf("www.acme.example"); again.SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Error("the certificate has not been kept")
	}
	s.stop()
}
