package main

import (
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"salp/internal/access"
	"salp/internal/config"
)

// requestFlags say of a request what access rules can ask.
type requestFlags struct {
	client, url, method, listener, user, at, server, contentType string
	header, alpn                                                 []string
	verified, json                                               bool
	given                                                        func(flag string) bool // whether it stands on the command line

	secure bool // the URL is one of https
}

func (r *requestFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	r.given = f.Changed
	f.StringVar(&r.client, "client", "", "the client's `address`")
	f.StringVar(&r.url, "url", "", "the `URL`; host:port with --method CONNECT, and of a connection that is not HTTP")
	f.StringVar(&r.method, "method", "", "the `method` (default GET)")
	f.StringVar(&r.listener, "listener", "", "the `name` of the listener (default: the first that would take the request)")
	f.StringVar(&r.user, "user", "", "the `name` of the authenticated user")
	f.StringVar(&r.at, "at", "", "`time`, as \"2006-01-02 15:04\" here or RFC 3339 (default now)")
	f.StringVar(&r.server, "server", "", "the server's `address`, for rules with to")
	f.StringVar(&r.contentType, "content-type", "", "the media `type` of the response, for rules with content_type")
	f.StringArrayVarP(&r.header, "header", "H", nil, "a `field` of the request's header, \"Name: value\"; can be repeated")
	f.StringSliceVar(&r.alpn, "alpn", nil, "the `protocols` that the TLS client offers, as in h2,http/1.1")
	f.BoolVar(&r.verified, "host-verified", false, "the host resolves to the address that the client dialled; =false: it does not")
	f.BoolVar(&r.json, "json", false, "print JSON")
}

// explanation is what `salp explain` says about a request.
type explanation struct {
	Listener string          `json:"listener"`
	List     string          `json:"list"` // "": no access list, everything is allowed
	Steps    []access.Step   `json:"steps"`
	Allowed  bool            `json:"allowed"`
	Rule     string          `json:"rule"` // as logs name it
	Needs    []string        `json:"needs,omitempty"`
	Marking  *config.Marking `json:"marking,omitempty"`
	Route    int             `json:"route"` // -1: none
	Goes     string          `json:"goes"`
}

func explainRequest(env *environment, file string, r *requestFlags) error {
	cfg, err := config.Load(file)
	if err != nil {
		return tellFaults(env, err)
	}
	facts, err := r.facts()
	if err != nil {
		return usageError{err}
	}
	l, err := r.chooseListener(cfg, facts)
	if err != nil {
		return err
	}
	r.seen(l, facts)
	rules := access.Compile(cfg)
	if err := loadLists(cfg, rules); err != nil {
		return tellFaults(env, err)
	}
	e := explain(l, rules, facts)
	if r.json {
		return printJSON(env.Stdout, e)
	}
	e.print(env.Stdout, cfg, l)
	return nil
}

// facts reads the flags.
func (r *requestFlags) facts() (*access.Facts, error) {
	client, err := netip.ParseAddr(r.client)
	if err != nil {
		return nil, fmt.Errorf("--client: %q is not an address", r.client)
	}
	f := &access.Facts{Client: client, Method: r.method, User: r.user, Time: time.Now(), ContentType: access.MediaType(r.contentType), HostVerified: r.verified, ALPN: r.alpn}
	if r.server != "" {
		if f.Server, err = netip.ParseAddr(r.server); err != nil {
			return nil, fmt.Errorf("--server: %q is not an address", r.server)
		}
	} else {
		f.Missing |= access.Address
	}
	if r.contentType == "" {
		f.Missing |= access.Response
	}
	if !r.given("host-verified") {
		f.Missing |= access.Verification
	}
	if r.user == "" {
		f.Missing |= access.User
	}
	if r.at != "" {
		if f.Time, err = time.ParseInLocation("2006-01-02 15:04", r.at, time.Local); err != nil {
			if f.Time, err = time.Parse(time.RFC3339, r.at); err != nil {
				return nil, fmt.Errorf(`--at: write the time as "2006-01-02 15:04" or as RFC 3339 says`)
			}
		}
	}
	fields := header{}
	for _, line := range r.header {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf(`--header: write it as "Name: value"`)
		}
		fields = append(fields, [2]string{name, strings.TrimSpace(value)})
	}
	f.Header = fields
	return f, r.target(f)
}

// target reads the URL, or host:port of a CONNECT.
func (r *requestFlags) target(f *access.Facts) error {
	if !strings.Contains(r.url, "://") {
		host, port, ok := strings.Cut(r.url, ":")
		if i := strings.LastIndexByte(r.url, ':'); strings.HasPrefix(r.url, "[") {
			host, port, ok = r.url[:max(i, 0)], r.url[i+1:], i > 0
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if !ok || err != nil {
			return fmt.Errorf("--url: write it as  http://HOST/PATH,  or  HOST:PORT  for a CONNECT")
		}
		f.Host, f.Port = access.Host(host), uint16(n)
		if f.Method == "" {
			f.Method = "CONNECT"
		}
		return nil
	}
	u, err := url.Parse(r.url)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("--url: %q is not a URL of http or https", r.url)
	}
	f.Host, f.Port, f.Path = access.Host(u.Host), 80, u.EscapedPath()
	if r.secure = u.Scheme == "https"; r.secure {
		f.Port = 443
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return fmt.Errorf("--url: %q is not a port", p)
		}
		f.Port = uint16(n)
	}
	if f.Path == "" {
		f.Path = "/"
	}
	if f.Method == "" {
		f.Method = "GET"
	}
	return nil
}

// header gives rules the fields of --header.
type header [][2]string

// Value implements access.Header.
func (h header) Value(name string, n int) (string, bool) {
	for _, field := range h {
		if strings.EqualFold(field[0], name) {
			if n == 0 {
				return field[1], true
			}
			n--
		}
	}
	return "", false
}

// seen makes the facts what the listener knows of such a request (packages httpproxy and gate gather the same).
func (r *requestFlags) seen(l *config.Listener, f *access.Facts) {
	f.Listener = l.Name
	if l.Protocol != config.ProtocolHTTP {
		if l.Protocol == config.ProtocolTLS {
			f.SNI = f.Host
		}
		f.Host, f.Method, f.Path, f.Header = "", "", "", nil
		f.Missing &^= access.Response | access.User
		if f.SNI == "" {
			f.Missing &^= access.Verification
		}
		return
	}
	if l.TLS != nil && r.secure && !l.IsProxy() {
		f.SNI = f.Host
	}
	if l.Auth == nil {
		f.User = ""
		f.Missing &^= access.User
	}
	if l.Intercept != nil {
		return
	}
	f.HostVerified = true // a host that is looked up is the one that is connected to
	f.Missing &^= access.Verification
	if l.Pool != "" {
		f.Missing &^= access.Address
	}
	if l.Connects() && r.secure && r.method == "" {
		f.Method, f.Path, f.Header = "CONNECT", "", nil // what a browser asks a proxy for
	}
	if f.Method == "CONNECT" {
		f.Missing &^= access.Response // what comes through the tunnel is nobody's business
	}
}

// chooseListener finds the listener that would take the request: an intercepting one that takes in its port, else one that clients dial. A CONNECT is for a
// proxy, if there is one.
func (r *requestFlags) chooseListener(cfg *config.Config, f *access.Facts) (*config.Listener, error) {
	if r.listener != "" {
		if l := cfg.Listener(r.listener); l != nil {
			return l, nil
		}
		return nil, fmt.Errorf("%s has no listener %q", cfg.File, r.listener)
	}
	all := cfg.Listeners
	takesIn := slices.IndexFunc(all, func(l *config.Listener) bool {
		return l.Intercept != nil && slices.ContainsFunc(l.Intercept.Ports, func(p config.PortRange) bool { return f.Port >= p.First && f.Port <= p.Last })
	})
	proxy := slices.IndexFunc(all, (*config.Listener).IsProxy)
	serves := slices.IndexFunc(all, func(l *config.Listener) bool {
		return l.Listen != nil && l.Protocol == config.ProtocolHTTP && !l.IsProxy() && (l.TLS != nil) == r.secure
	})
	order := []int{takesIn, serves, proxy}
	if f.Method == "CONNECT" {
		order = []int{proxy, takesIn}
	}
	for _, i := range order {
		if i >= 0 {
			return all[i], nil
		}
	}
	return nil, fmt.Errorf("no listener of %s would take this: none takes in port %d, and none is a proxy", cfg.File, f.Port)
}

// loadLists fills the lists from their files.
func loadLists(cfg *config.Config, rules *access.Rules) error {
	var faults config.Errors
	for _, l := range cfg.Lists {
		key, name := "names", l.Names
		if name == "" {
			key, name = "addresses", l.Addresses
		}
		at := config.Path{"lists", l.Name, key}
		file, err := os.Open(cfg.InFile(name))
		if err != nil {
			faults = append(faults, cfg.Fault(at, err.Error(), "make the file, or mend the path"))
			continue
		}
		if err := rules.SetList(l, file); err != nil {
			faults = append(faults, cfg.Fault(at, cfg.InFile(name)+": "+err.Error(), "mend that line"))
		}
		_ = file.Close() // only read from
	}
	if faults != nil {
		return faults
	}
	return nil
}

// explain asks the rules and the routes.
func explain(l *config.Listener, rules *access.Rules, f *access.Facts) *explanation {
	e := &explanation{Listener: l.Name, List: l.Access, Allowed: true, Route: access.NoRule}
	if list := rules.List(l.Access); list != nil {
		v := list.Decide(f)
		e.Steps, e.Allowed, e.Rule, e.Marking, e.Needs = list.Explain(f), v.Allow, v.Place(), v.Marking, needWords(v.Needs)
	}
	e.Goes = "the server that the client dialled"
	if l.DestinationOf() == config.DestinationHost {
		e.Goes = "the host that the request names"
	}
	if l.Pool != "" {
		e.Goes = "pool " + l.Pool
	}
	routes := rules.Routes(l.Name)
	if routes == nil {
		return e
	}
	route, needs := routes.Choose(f)
	switch {
	case needs != 0:
		e.Goes = "where a route says that depends on " + strings.Join(needWords(needs), " and ")
	case route != access.NoRule:
		e.Route = route
		e.Goes = routeWords(&l.Routes[route])
	}
	return e
}

func routeWords(r *config.Route) string {
	switch {
	case r.Pool != "":
		return "pool " + r.Pool
	case r.Destination == config.DestinationHost:
		return "the host that the request names"
	}
	return "the server that the client dialled"
}

func needWords(n access.Need) (all []string) {
	for _, need := range []struct {
		access.Need
		words string
	}{{access.User, "the user (--user)"}, {access.Address, "the server's address (--server)"}, {access.Verification, "whether the host is verified (--host-verified)"},
		{access.Response, "the response's type (--content-type)"}} {
		if n&need.Need != 0 {
			all = append(all, need.words)
		}
	}
	return all
}

func (e *explanation) print(w io.Writer, cfg *config.Config, l *config.Listener) {
	p := painter(w)
	line, _ := cfg.Place(config.Path{"listeners", l.Name})
	fmt.Fprintf(w, "listener %s (%s:%d)\n", e.Listener, cfg.File, line)
	if l.Auth != nil {
		fmt.Fprintln(w, "it asks for a name and a password before any rule")
	}
	if e.List == "" {
		fmt.Fprintln(w, "it has no access list: everything is allowed")
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range e.Steps {
		verdict, outcome := "deny", "does not match"
		if s.Allow {
			verdict = "allow"
		}
		switch {
		case s.Met:
			outcome = "decides"
		case s.Needs != 0:
			outcome = "depends on " + strings.Join(needWords(s.Needs), " and ")
		}
		fmt.Fprintf(table, "  %s[%d]\tline %d\t%s\t%s\t%s\n", e.List, s.Rule, s.Line, verdict, outcome, s.Why)
	}
	_ = table.Flush() // to a terminal or a file: nothing better can be done
	switch {
	case len(e.Needs) > 0 && !e.Allowed:
		fmt.Fprintln(w, p.yellow("cannot tell without "+strings.Join(e.Needs, " and ")))
		return
	case len(e.Needs) > 0:
		fmt.Fprintln(w, p.yellow("allowed by "+e.Rule+", unless a rule forbids the response: tell "+strings.Join(e.Needs, " and ")))
	case !e.Allowed && e.Rule == e.List:
		fmt.Fprintln(w, p.red("denied: no rule of "+e.List+" matches"))
		return
	case !e.Allowed:
		fmt.Fprintln(w, p.red("denied by "+e.Rule))
		return
	case e.Rule == "":
		fmt.Fprintln(w, p.green("allowed"))
	default:
		fmt.Fprintln(w, p.green("allowed by "+e.Rule))
	}
	if e.Route != access.NoRule {
		fmt.Fprintf(w, "route %d: ", e.Route)
	}
	fmt.Fprintln(w, "goes to "+e.Goes)
	e.printMarking(w, l)
}

// printMarking tells what the connection to the server is given.
func (e *explanation) printMarking(w io.Writer, l *config.Listener) {
	m := l.Marking
	if rule := e.Marking; rule != nil { // in its place, but for the link where it names none
		if m = *rule; m.Link == "" {
			m.Link = l.Marking.Link
		}
	}
	if m.Mark != 0 {
		fmt.Fprintf(w, "with mark 0x%x\n", m.Mark)
	}
	if m.DSCP != nil {
		fmt.Fprintf(w, "with DSCP %d\n", *m.DSCP)
	}
	if m.Link != "" {
		fmt.Fprintf(w, "by link %s\n", m.Link)
	}
}
