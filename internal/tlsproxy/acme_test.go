package tlsproxy_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salp/internal/lab"
)

// pebbleVersion is the version of Let's Encrypt's small ACME server that a certificate is got from.
const pebbleVersion = "v2.10.1"

// A certificate is got by ACME: the authority asks the listener itself by tls-alpn-01, and the state is kept.
func TestACME(t *testing.T) {
	if testing.Short() {
		t.Skip("builds pebble")
	}
	dir := t.TempDir()
	build := exec.Command("go", "install", "github.com/letsencrypt/pebble/v2/cmd/pebble@"+pebbleVersion)
	build.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("pebble cannot be built here: %v\n%s", err, out)
	}
	dns, err := lab.StartDNS("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dns.Close()
	dns.Set("www.acme.example", time.Minute, "127.0.0.1")
	listener, directory := freeAddress(t), freeAddress(t)
	cert := startPebble(t, dir, directory, listener, dns.Addr().String())
	r := newRigWith(t, http.HandlerFunc(echo), listener, fmt.Sprintf(`{acme: {names: [www.acme.example], directory: "https://%s/dir", authority: ca.pem, state: %s/state}}`, directory, dir),
		map[string][]byte{"ca.pem": cert})
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		c, err := tls.Dial("tcp", r.address, &tls.Config{ServerName: "www.acme.example", InsecureSkipVerify: true})
		if err == nil {
			leaf := c.ConnectionState().PeerCertificates[0]
			c.Close()
			if !strings.Contains(leaf.Issuer.CommonName, "Pebble") || len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != "www.acme.example" {
				t.Errorf("the certificate is for %v, by %s", leaf.DNSNames, leaf.Issuer)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no certificate: %v", err)
		}
	}
	keys, err := filepath.Glob(filepath.Join(dir, "state", "certificates", "*", "www.acme.example", "*.key"))
	if err != nil || len(keys) != 1 {
		t.Errorf("the state holds the keys %v, %v", keys, err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startPebble starts the authority and returns the root of its own certificate.
func startPebble(t *testing.T, dir, address, challenged, dns string) []byte {
	t.Helper()
	cert, key := certificate(t, "127.0.0.1")
	for name, content := range map[string][]byte{"pebble.pem": cert, "pebble.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, port, err := net.SplitHostPort(challenged)
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": address, "managementListenAddress": "", "certificate": filepath.Join(dir, "pebble.pem"), "privateKey": filepath.Join(dir, "pebble.key"),
		"httpPort": 1, "tlsPort": json.Number(port), "ocspResponderURL": "", "externalAccountBindingRequired": false,
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "pebble"), "-config", file, "-dnsserver", dns)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	log := &lab.Log{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("pebble:\n%s", log)
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return cert
		}
		if time.Now().After(end) {
			t.Fatalf("pebble does not listen: %v\n%s", err, log)
		}
	}
}
