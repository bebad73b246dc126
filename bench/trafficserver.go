package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// trafficServer is Apache Traffic Server without a cache: fully transparent, or a reverse proxy where clients dial it.
type trafficServer struct{ program }

// trafficServerRecords takes the directory, the ports and the number of threads. It stays root (user #-1), for the same reasons as
// the others.
const trafficServerRecords = `CONFIG proxy.config.http.server_ports STRING %[2]s
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.log.logging_enabled INT 0
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT %[3]d
CONFIG proxy.config.http.insert_request_via_str INT 0
CONFIG proxy.config.http.insert_response_via_str INT 0
CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 300
CONFIG proxy.config.http.keep_alive_no_activity_timeout_out INT 300
CONFIG proxy.config.url_remap.remap_required INT %[4]d
CONFIG proxy.config.url_remap.pristine_host_hdr INT 1
CONFIG proxy.config.reverse_proxy.enabled INT 1
CONFIG proxy.config.diags.output.status STRING E
CONFIG proxy.config.http.use_client_target_addr INT 1
CONFIG proxy.config.net.connections_throttle INT 15000
`

func (t *trafficServer) start(ctx context.Context, n *network, m mode) error {
	ports, required, remap := fmt.Sprintf("%d:ipv4", n.inside.Port()), 1, fmt.Sprintf("map / http://%s/\n", n.server)
	if m == transparent {
		ports, required, remap = fmt.Sprintf("%d:ipv4:tr-full", arrival), 0, ""
		// It listens on the wildcard address, which would make the divert take its every packet: so the port comes first.
		take := fmt.Sprintf("\t\tiifname %s tcp dport %d tproxy ip to :%d meta mark set 1 accept\n", n.incoming, n.server.Port(), arrival)
		if err := deliver(ctx, n, fmt.Sprintf(divert, take, "")); err != nil {
			return err
		}
	}
	root, err := t.layout(n, fmt.Sprintf(trafficServerRecords, n.dir, ports, proxyLoops, required), remap)
	if err != nil {
		return err
	}
	cmd := exec.Command("traffic_server")
	cmd.Env = append(os.Environ(), "TS_RUNROOT="+root)
	if err := t.run(n, cmd); err != nil {
		return err
	}
	return t.until(ctx, t.listens(n, 1))
}

// trafficServerDirs are the directories of a runroot, and where each is below it. (runroot.yaml)
var trafficServerDirs = map[string]string{"bindir": "/usr/bin", "sbindir": "/usr/sbin", "sysconfdir": "etc", "datadir": "data", "includedir": "include",
	"libdir": "/usr/lib/trafficserver", "libexecdir": "/usr/lib/trafficserver/modules", "localstatedir": "var", "runtimedir": "run", "logdir": "log", "cachedir": "cache", "mandir": "man", "infodir": "info"}

// layout makes the directories and files that it wants to find, and returns the file that names them.
func (t *trafficServer) layout(n *network, records, remap string) (string, error) {
	root := filepath.Join(n.dir, "ts")
	text := "prefix: " + root + "\nexec_prefix: " + root + "\n"
	var errs []error
	for name, dir := range trafficServerDirs {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(root, dir)
			errs = append(errs, os.MkdirAll(dir, 0o755))
		}
		text += name + ": " + dir + "\n"
	}
	for name, content := range map[string]string{"records.config": records, "remap.config": remap, "storage.config": "", "ip_allow.yaml": trafficServerAllow,
		"plugin.config": "", "parent.config": "", "hosting.config": "", "cache.config": "", "volume.config": ""} {
		errs = append(errs, os.WriteFile(filepath.Join(root, "etc", name), []byte(content), 0o644))
	}
	path := filepath.Join(root, "runroot.yaml")
	return path, errors.Join(append(errs, os.WriteFile(path, []byte(text), 0o644))...)
}

const trafficServerAllow = `ip_allow:
  - apply: in
    ip_addrs: [0/0, ::/0]
    action: allow
    methods: ALL
`

func trafficServerVersion(ctx context.Context) string {
	return strings.TrimSpace(firstLine(ctx, "traffic_server", "-V"))
}
