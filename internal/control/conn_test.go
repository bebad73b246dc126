package control

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salp/internal/probe"
)

// pair returns both ends as Conns.
func pair(t *testing.T) (keeper, worker *Conn) {
	t.Helper()
	keeper, file, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keeper.Close() })
	fd, err := unix.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	worker, err = FromFD(uintptr(fd))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { worker.Close() })
	return keeper, worker
}

// raw returns one end as a bare descriptor, to send what no Conn would.
func raw(t *testing.T) (int, *Conn) {
	t.Helper()
	keeper, file, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keeper.Close(); file.Close() })
	return int(file.Fd()), keeper
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

var (
	local  = netip.MustParseAddrPort("192.0.2.1:80")
	remote = netip.MustParseAddrPort("[2001:db8::1]:40000")
)

func TestEveryMessageArrives(t *testing.T) {
	keeper, worker := pair(t)
	for _, m := range []Message{
		{Sockets: &Sockets{Listener: "web", Address: local}},
		{Start: &Start{File: "salp.yaml", Generation: 7}},
		{Drain: &Drain{Bound: 30 * time.Second}},
		{Destroyed: &Destroyed{ID: 9, Error: "no such socket"}},
		{Ready: &Ready{}},
		{Elsewhere: &Elsewhere{Servers: []Place{}, Listeners: map[string]uint64{"web": 1}, Clients: []ClientCount{{"web", netip.MustParseAddr("10.0.0.1"), 2}}}},
		{Beat: &Beat{Stats: Stats{"web": {Accepted: 3, Active: 1, Errors: map[string]uint64{ErrorIdle: 2}}}}},
		{Destroy: &Destroy{ID: 9, Local: local, Remote: remote}},
		{Draining: &Draining{}},
		{Bye: &Bye{Cut: 4, Stats: Stats{}}},
		{Pools: &Pools{Servers: []Server{{Pool: "mail", Server: "mx.example.org:25", Address: local, State: ServerDrain, Since: time.Unix(1, 0).UTC(), Recovered: true}}}},
		{Watch: &Watch{Names: []string{"mx.example.org"}, Resolvers: Resolvers{Servers: []netip.AddrPort{local}, MinTTL: 1},
			Jobs: []Job{{ID: "pool/mail", Every: 1, Jitter: 0.5, Probe: probe.Spec{Target: local, Timeout: 1, Source: local.Addr(), Ping: &probe.Ping{Size: 8}}}}}},
		{Call: &Call{ID: 1, URL: "http://example.org", Body: []byte("{}"), Timeout: 1}},
		{Results: &Results{Results: []Result{{ID: "pool/mail", At: time.Unix(2, 0).UTC(), Error: "no answer", RTT: 3}}}},
		{Names: &Names{Names: []Name{{Name: "mx.example.org", Addresses: []netip.Addr{local.Addr()}}}}},
		{Called: &Called{ID: 1, Error: "no route"}},
	} {
		var fds []int
		if m.Sockets != nil || m.Start != nil {
			fds = []int{0}
		}
		if err := keeper.Send(m, fds...); err != nil {
			t.Fatal(err)
		}
		got, gotFDs, err := worker.Receive()
		if err != nil {
			t.Fatalf("%s: %v", m.kind(), err)
		}
		closeAll(gotFDs)
		if !reflect.DeepEqual(got, m) || len(gotFDs) != len(fds) {
			t.Errorf("sent %+v, got %+v with %d descriptors", m, got, len(gotFDs))
		}
	}
}

func TestDescriptorsArriveInOrderAndCloseOnExec(t *testing.T) {
	keeper, worker := pair(t)
	var sent []int
	for i := range MaxDescriptors {
		fd, err := unix.MemfdCreate(fmt.Sprint(i), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, fd)
	}
	defer closeAll(sent)
	if err := keeper.Send(Message{Sockets: &Sockets{Listener: "web", Address: local}}, sent...); err != nil {
		t.Fatal(err)
	}
	_, fds, err := worker.Receive()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fds)
	if len(fds) != len(sent) {
		t.Fatalf("%d descriptors arrived of %d", len(fds), len(sent))
	}
	for i, fd := range fds {
		var b [1]byte
		if _, err := unix.Pread(fd, b[:], 0); err != nil || b[0] != byte(i) {
			t.Errorf("descriptor %d holds %d, %v", i, b[0], err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is not close-on-exec: %#x, %v", i, flags, err)
		}
	}
	if err := keeper.Send(Message{Sockets: &Sockets{Listener: "web", Address: local}}, append(sent, sent[0])...); err == nil {
		t.Error("one descriptor too many was sent")
	}
}

func TestLargeStatsGoInSeveralPackets(t *testing.T) {
	keeper, worker := pair(t)
	stats := Stats{}
	for i := range 5000 {
		stats[fmt.Sprintf("listener-%d", i)] = Listener{Accepted: uint64(i), BytesIn: 1 << 60, Errors: map[string]uint64{ErrorIdle: 1 << 50, ErrorLoop: 2}}
	}
	var sending sync.WaitGroup
	for range 4 { // messages of several senders must not mix
		sending.Go(func() {
			if err := worker.Send(Message{Beat: &Beat{Stats: stats}}); err != nil {
				t.Error(err)
			}
		})
	}
	for range 4 {
		m, _, err := keeper.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Beat == nil || !reflect.DeepEqual(m.Beat.Stats, stats) {
			t.Error("the stats changed on their way")
		}
	}
	sending.Wait()
}

func TestMessagesSentBeforeTheEndArrive(t *testing.T) {
	keeper, worker := pair(t)
	// An unread message of ours makes the kernel report a reset first.
	if err := keeper.Send(Message{Drain: &Drain{Bound: time.Second}}); err != nil {
		t.Fatal(err)
	}
	if err := worker.Send(Message{Bye: &Bye{Cut: 2}}); err != nil {
		t.Fatal(err)
	}
	worker.Close()
	m, _, err := keeper.Receive()
	if err != nil || m.Bye == nil || m.Bye.Cut != 2 {
		t.Fatalf("got %+v, %v instead of the last message", m, err)
	}
	if _, _, err := keeper.Receive(); err != io.EOF {
		t.Fatalf("after the end: %v, want io.EOF", err)
	}
	if err := keeper.Send(Message{Drain: &Drain{}}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("sending to a dead worker: %v, want EPIPE", err)
	}
}

func TestSendToOneWhoDoesNotReadIsBounded(t *testing.T) {
	keeper, _ := pair(t)
	began := time.Now()
	for time.Since(began) < 10*SendTimeout {
		err := keeper.Send(Message{Destroyed: &Destroyed{Error: strings.Repeat("x", 20000)}})
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > 5*SendTimeout {
			t.Errorf("gave up only after %v", waited)
		}
		return
	}
	t.Fatal("never refused")
}

func TestCloseEndsReceive(t *testing.T) {
	keeper, _ := pair(t)
	done := make(chan error, 1)
	go func() {
		_, _, err := keeper.Receive()
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	keeper.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Receive goes on after Close")
	}
}

func TestHostilePackets(t *testing.T) {
	pair := unix.UnixRights(0, 1)
	for _, c := range []struct {
		name    string
		packets []string
		oob     []byte
		want    string
	}{
		{"no JSON", []string{"\x00junk"}, nil, "decode"},
		{"only the first byte", []string{"\x00"}, nil, "decode"},
		{"unknown first byte", []string{"\x07{}"}, nil, "unknown kind of packet"},
		{"two set", []string{`` + "\x00" + `{"ready":{},"beat":{}}`}, nil, "several"},
		{"wrong type", []string{"\x00" + `{"drain":{"bound":"soon"}}`}, nil, "decode"},
		{"negative bound", []string{"\x00" + `{"drain":{"bound":-1}}`}, nil, "drain"},
		{"negative count", []string{"\x00" + `{"beat":{"clients":[{"listener":"a","client":"10.0.0.1","active":-1}]}}`}, nil, "has -1 connections"},
		{"count of nobody", []string{"\x00" + `{"elsewhere":{"clients":[{"listener":"a","client":"","active":1}]}}`}, nil, "connections on listener"},
		{"no address", []string{"\x00" + `{"destroy":{"id":1}}`}, nil, "destroy"},
		{"sockets without any", []string{"\x00" + `{"sockets":{"listener":"a","address":"[::]:1"}}`}, nil, "0 descriptors"},
		{"start with two", []string{"\x00" + `{"start":{}}`}, pair, "2 descriptors"},
		{"stray descriptors", []string{"\x00" + `{"ready":{}}`}, pair, "2 descriptors"},
		{"stray descriptors beside junk", []string{"\x00}"}, pair, "decode"},
		{"packet too large", []string{"\x00" + strings.Repeat(" ", packetSize)}, pair, "more than"},
		{"empty packet inside", []string{"\x01{", "\x01"}, pair, "empty packet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fd, keeper := raw(t)
			before := openFiles(t)
			for i, p := range c.packets {
				oob := c.oob
				if i > 0 {
					oob = nil
				}
				if err := unix.Sendmsg(fd, []byte(p), oob, nil, 0); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := keeper.Receive()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if after := openFiles(t); after != before {
				t.Errorf("%d descriptors are left open", after-before)
			}
		})
	}
}

// A keeper may be of a later version than its worker, or the other way round.
func TestUnknownKindIsDropped(t *testing.T) {
	fd, keeper := raw(t)
	before := openFiles(t)
	for _, p := range []struct {
		text string
		oob  []byte
	}{{`{}`, nil}, {`{"news":{"of":1}}`, unix.UnixRights(0)}, {`{"ready":{"more":true}}`, nil}} {
		if err := unix.Sendmsg(fd, []byte("\x00"+p.text), p.oob, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if m, fds, err := keeper.Receive(); err != nil || m.Ready == nil || fds != nil {
		t.Errorf("got %+v, %v, %v", m, fds, err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors are left open", after-before)
	}
}

// Who reads the socket after a pause must find whole messages, each once.
func TestPauseIsBetweenMessages(t *testing.T) {
	fd, keeper := raw(t)
	number, err := keeper.Descriptor()
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	receive := func() {
		m, _, err := keeper.Receive()
		if err == nil && m.Bye == nil {
			err = errors.New("another message")
		}
		got <- err
	}
	go receive()
	time.Sleep(10 * time.Millisecond)
	if err := keeper.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, ErrPaused) {
		t.Fatalf("a Receive that waits: %v", err)
	}
	if err := keeper.Unpause(); err != nil {
		t.Fatal(err)
	}
	packet := func(text string) {
		t.Helper()
		if err := unix.Sendmsg(fd, []byte(text), nil, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	packet("\x01" + `{"bye":`)
	go receive()
	time.Sleep(50 * time.Millisecond) // it waits for the rest now
	if err := keeper.Pause(); err != nil {
		t.Fatal(err)
	}
	packet("\x00" + `{"cut":7}}`)
	packet("\x00" + `{"ready":{}}`)
	if err := <-got; err != nil {
		t.Fatalf("a Receive in the middle of a message: %v", err)
	}
	go receive()
	if err := <-got; !errors.Is(err, ErrPaused) {
		t.Fatalf("a Receive after the pause: %v", err)
	}
	copied, err := unix.Dup(number)
	if err != nil {
		t.Fatal(err)
	}
	next, err := FromFD(uintptr(copied))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if m, _, err := next.Receive(); err != nil || m.Ready == nil {
		t.Errorf("who reads next: %+v, %v", m, err)
	}
}

func TestEndlessMessageIsRefused(t *testing.T) {
	fd, keeper := raw(t)
	before := openFiles(t)
	go func() {
		packet := append([]byte{packetMore}, make([]byte, packetSize-1)...)
		for range 2 * MaxMessage / packetSize {
			if unix.Sendmsg(fd, packet, unix.UnixRights(0), nil, 0) != nil {
				return
			}
		}
	}()
	_, _, err := keeper.Receive()
	if err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors are left open", after-before)
	}
	keeper.Close()
}

func TestFromFDRefusesOtherDescriptors(t *testing.T) {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FromFD(uintptr(fd)); err == nil {
		t.Error("took /dev/null")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	if _, err := FromFD(uintptr(fds[0])); err == nil || !strings.Contains(err.Error(), "SEQPACKET") {
		t.Errorf("took a stream socket: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	keeper, _ := pair(t)
	for _, m := range []Message{{}, {Ready: &Ready{}, Bye: &Bye{}}, {Destroyed: &Destroyed{Error: strings.Repeat("x", MaxMessage)}}} {
		if err := keeper.Send(m); err == nil {
			t.Errorf("sent %q", m.kind())
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"ready":{}}`, `{"beat":{"stats":{"a":{"accepted":1,"errors":{"idle":2}}}}}`, `{"start":{"file":"x","generation":1}}`,
		`{"sockets":{"listener":"a","address":"1.2.3.4:5"}}`, `{"destroy":{"id":1,"local":"1.2.3.4:5","remote":"[::1]:6"}}`, `{"bye":{}}`, `[]`, `{"drain":null}`} {
		f.Add([]byte(s), 0)
	}
	f.Fuzz(func(t *testing.T, text []byte, descriptors int) {
		m, err := decode(text)
		if err != nil || m.check(descriptors) != nil {
			return
		}
		again, err := encode(m)
		if err != nil {
			t.Fatalf("decoded but does not encode: %v", err)
		}
		m2, err := decode(again)
		if err != nil || m2.kind() != m.kind() {
			t.Fatalf("%s became %s, %v", m.kind(), m2.kind(), err)
		}
	})
}
