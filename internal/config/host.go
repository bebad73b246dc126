package config

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// serverHostForm is a host name (RFC 1123 section 2.1, and the underscores that people use), without its final dot. The last label is not a number,
// or a mistyped address would be one.
var serverHostForm = regexp.MustCompile(serverHostPattern)

const serverHostPattern = `^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?$`

// maxHost is how long a name may be (RFC 1035 section 2.3.4, without the final dot).
const maxHost = 253

// serverHostName is the name of a host.
func serverHostName(words string) kind[string] {
	return word(words, map[string]any{"pattern": serverHostPattern}, func(s string) (problem, hint string) {
		if !isHost(s) {
			return "is no host name", "write it as in  www.example.org  (names with other letters in their xn-- form)"
		}
		return "", ""
	})
}

func isHost(s string) bool { return len(s) <= maxHost && serverHostForm.MatchString(s) }

// joinPort writes a host name with its port.
func joinPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// endpoint is what connections go to: an address or a name, with a port.
type endpoint struct {
	address netip.AddrPort
	host    string
	port    uint16
}

// serverAddress is an address with a port, or a name with a port.
func serverAddress() kind[endpoint] {
	plain := address(false)
	s := shape{words: "address or name, with port", schema: map[string]any{"type": "string", "anyOf": []any{
		map[string]any{"pattern": plain.shape.schema["pattern"]},
		map[string]any{"pattern": strings.TrimSuffix(serverHostPattern, "$") + `\.?:[0-9]{1,5}$`},
	}}}
	return kind[endpoint]{shape: s, read: func(r *reader, n *yaml.Node, at Path) (endpoint, bool) {
		if n.Kind == yaml.ScalarNode {
			host, port, found := strings.Cut(n.Value, ":")
			host = strings.TrimSuffix(host, ".")
			if number, ok := parsePort(port); found && ok && isHost(host) {
				return endpoint{host: strings.ToLower(host), port: number}, true
			}
			if isHost(host) && !found {
				r.bad(n, at, "is not an address with a port", "the port is missing: write  "+quote(joinPort(host, 80)))
				return endpoint{}, false
			}
		}
		a, ok := plain.read(r, n, at)
		return endpoint{address: a}, ok
	}}
}

// serverAddressKey makes the key of a mapping that holds what serverAddress reads.
func serverAddressKey(e entry) field[Server] {
	k := serverAddress()
	e.shape = k.shape
	return field[Server]{entry: e, reset: func(*Server) {}, read: func(r *reader, n *yaml.Node, at Path, into *Server) {
		v, ok := k.read(r, n, at)
		if !ok {
			r.refused[at.id()] = true
			return
		}
		into.set(v)
	}}
}

func (s *Server) set(e endpoint) { s.Address, s.Host, s.Port = e.address, e.host, e.port }
