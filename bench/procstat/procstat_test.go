package procstat

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseSchedstat(t *testing.T) {
	tests := []struct {
		text string
		want time.Duration
		bad  bool
	}{
		{"123456789 42 7\n", 123456789 * time.Nanosecond, false},
		{"0 0 1\n", 0, false},
		{"", 0, true},
		{"1 2\n", 0, true},
		{"x 2 3\n", 0, true},
	}
	for _, tt := range tests {
		got, err := parseSchedstat(tt.text)
		if (err != nil) != tt.bad || !tt.bad && got != tt.want {
			t.Errorf("%q gave %v, %v; want %v", tt.text, got, err, tt.want)
		}
	}
}

func TestParseStat(t *testing.T) {
	tests := []struct {
		text        string
		pid, parent int
		bad         bool
	}{
		{"12 (salp) S 3 12 12 0", 12, 3, false},
		{"12 (a) (b c) R 44 1", 12, 44, false},
		{"12 salp S 3", 0, 0, true},
		{"12 (salp", 0, 0, true},
		{"12 (salp) S", 0, 0, true},
	}
	for _, tt := range tests {
		pid, parent, err := parseStat(tt.text)
		if (err != nil) != tt.bad || !tt.bad && (pid != tt.pid || parent != tt.parent) {
			t.Errorf("%q gave %d, %d, %v", tt.text, pid, parent, err)
		}
	}
}

func TestParseBusy(t *testing.T) {
	got, err := parseBusy("cpu  100 20 300 9999 8888 4 5 6 77 88\ncpu0 1 2 3\n")
	if want := 4350 * time.Millisecond; err != nil || got != want {
		t.Errorf("%v, %v; want %v: all but idle, iowait and the guests, which user holds already", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8 9"} {
		if _, err := parseBusy(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestParseSNMP(t *testing.T) {
	got, err := parseSNMP("Ip: Forwarding ForwDatagrams\nIp: 1 77\nTcp: MaxConn ActiveOpens PassiveOpens\nTcp: -1 5 6\n")
	if want := (Counters{77, 5, 6}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if d := got.Sub(Counters{70, 1, 2}); d != (Counters{7, 4, 4}) {
		t.Errorf("difference %+v", d)
	}
	for _, bad := range []string{"", "Ip: A B\nIp: 1\n", "Ip: A\nTcp: 1\n", "Ip: ForwDatagrams\nIp: x\n"} {
		if _, err := parseSNMP(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestParseKB(t *testing.T) {
	got := parseKB(strings.NewReader("55-77 ---p 0 [rollup]\nRss:   1772 kB\nPss:  339 kB\nHugePages_Total:  0\n"))
	if want := map[string]int64{"Rss": 1772 << 10, "Pss": 339 << 10}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}

// The readings of this very process and of a child of it.
func TestOwnProcess(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { child.Process.Kill(); child.Wait() }()
	pids, err := Tree(os.Getpid())
	if err != nil || !slices.Contains(pids, os.Getpid()) || !slices.Contains(pids, child.Process.Pid) {
		t.Fatalf("tree %v, %v; want %d and its child %d", pids, err, os.Getpid(), child.Process.Pid)
	}
	before, err := CPU(pids)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Millisecond); time.Now().Before(end); {
	}
	after, err := CPU(pids)
	if err != nil || after <= before {
		t.Errorf("processor time went from %v to %v, %v", before, after, err)
	}
	m, err := MemoryOf(pids)
	if err != nil || m.PSS <= 0 || m.RSS < m.PSS {
		t.Errorf("memory %+v, %v", m, err)
	}
	if busy, err := MachineCPU(); err != nil || busy <= 0 {
		t.Errorf("machine %v, %v", busy, err)
	}
	if n, err := KernelMemory(); err != nil || n <= 0 {
		t.Errorf("kernel memory %d, %v", n, err)
	}
}

// A process that is gone counts nothing and is no error.
func TestGone(t *testing.T) {
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	pids := []int{child.Process.Pid}
	cpu, err1 := CPU(pids)
	m, err2 := MemoryOf(pids)
	d, err3 := DescriptorsOf(pids)
	if err1 != nil || err2 != nil || err3 != nil || cpu != 0 || m != (Memory{}) || d.Count != 0 {
		t.Errorf("%v %v %v; errors %v, %v, %v", cpu, m, d, err1, err2, err3)
	}
}

// A socket of this process is found, with its addresses, and known as its own.
func TestSockets(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sockets, err := Sockets()
	if err != nil {
		t.Fatal(err)
	}
	open, err := DescriptorsOf([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	at, from := netip.MustParseAddrPort(l.Addr().String()), netip.MustParseAddrPort(c.LocalAddr().String())
	var heard, dialled bool
	for _, s := range sockets {
		heard = heard || s.Listening && s.Local == at && open.Holds(s)
		dialled = dialled || !s.Listening && s.Local == from && s.Remote == at && open.Holds(s)
	}
	if !heard || !dialled {
		t.Errorf("listening socket found: %v, connection found: %v", heard, dialled)
	}
	if open.Holds(Socket{Inode: 1}) {
		t.Error("a socket of nobody is held")
	}
}

func TestParseTCPBad(t *testing.T) {
	head := "  sl  local_address rem_address   st\n"
	for _, bad := range []string{
		"0: 0100007F:0050 00000000:0000 0A 0:0 0:0 0 0 0 x",
		"0: 0100:0050 00000000:0000 0A 0:0 0:0 0 0 0 7",
		"0: 0100007F:FFFFF 00000000:0000 0A 0:0 0:0 0 0 0 7",
	} {
		if _, err := parseTCP(head + bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
