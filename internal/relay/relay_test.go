package relay_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"salp/internal/config"
	"salp/internal/lab"
	"salp/internal/listen"
)

func TestEchoAndCleanEnd(t *testing.T) {
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.Echo)}})
	c := g.dial()
	for i := range 100 {
		text := fmt.Sprintf("message %d", i)
		write(t, c, text)
		expect(t, c, text)
	}
	c.CloseWrite()
	expectEnd(t, c)
	sum := g.idle()
	if sum.Accepted != 1 || sum.BytesIn != sum.BytesOut || sum.BytesIn == 0 || sum.Errors != [listen.Kinds]uint64{} {
		t.Errorf("counters %+v", sum)
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.Banner("220 ready\r\n"))}})
	c := g.dial()
	expect(t, c, "220 ready\r\n")
	write(t, c, "QUIT\r\n")
	expect(t, c, "QUIT\r\n")
}

// The client's FIN must reach the server while the answer, larger than all buffers, is still to come.
func TestHalfCloseByClient(t *testing.T) {
	const answer = 20 << 20
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.AnswerAtEnd(answer))}})
	c := g.dial()
	write(t, c, "request")
	c.CloseWrite()
	expect(t, c, "7\n")
	if n, err := lab.CheckPattern(c); n != answer || err != nil {
		t.Fatalf("%d bytes and %v, want %d", n, err, answer)
	}
	g.idle()
}

// The same the other way: the server ends first and goes on reading.
func TestHalfCloseByServer(t *testing.T) {
	const upload = 20 << 20
	got := make(chan error, 1)
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		io.WriteString(c, "go on")
		c.CloseWrite()
		n, err := lab.CheckPattern(c)
		if err == nil && n != upload {
			err = fmt.Errorf("%d bytes", n)
		}
		got <- err
	})}})
	c := g.dial()
	expect(t, c, "go on")
	expectEnd(t, c)
	if _, err := io.Copy(c, lab.Pattern(upload)); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	g.idle()
}

// A FIN that comes before the server is connected must not be lost, nor the bytes before it.
func TestEarlyBytesAndFin(t *testing.T) {
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.AnswerAtEnd(0))}})
	for range 200 {
		c := g.dial()
		write(t, c, "early")
		c.CloseWrite()
		expect(t, c, "5\n")
		expectEnd(t, c)
		c.Close()
	}
	g.idle()
}

func TestResetByServer(t *testing.T) {
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.ResetAfter(5))}})
	c := g.dial()
	write(t, c, "12345")
	expectReset(t, c)
	if sum := g.idle(); sum.Errors[listen.ServerReset] != 1 {
		t.Errorf("counters %+v", sum)
	}
}

// What the server said before it reset still arrives, as it would without us.
func TestLastWordsBeforeReset(t *testing.T) {
	dialled := make(chan struct{})
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		<-dialled
		io.WriteString(c, "goodbye")
		lab.Reset(c)
	})}})
	c := g.dial()
	close(dialled)
	expect(t, c, "goodbye")
	expectReset(t, c)
}

func TestResetByClient(t *testing.T) {
	end := make(chan error, 1)
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		end <- err
	})}})
	c := g.dial()
	write(t, c, "12345")
	g.until("the bytes are through", func(c *listen.Counters) bool { return c.BytesIn == 5 })
	lab.Reset(c)
	if err := <-end; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server read until %v, want a reset", err)
	}
	if sum := g.idle(); sum.Errors[listen.ClientReset] != 1 {
		t.Errorf("counters %+v", sum)
	}
}

// A reset passes a reader that is stuck, in both directions.
func TestResetWhileBlocked(t *testing.T) {
	for _, by := range []string{"client", "server"} {
		t.Run(by, func(t *testing.T) {
			held := make(chan *net.TCPConn, 1)
			let := make(chan struct{})
			g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
				held <- c
				<-let
			})}})
			defer close(let)
			c := g.dial()
			s := <-held
			from, to, kind := c, s, listen.ClientReset
			if by == "server" {
				from, to, kind = s, c, listen.ServerReset
			}
			stuff(t, from)
			lab.Reset(from)
			if sum := g.idle(); sum.Errors[kind] != 1 {
				t.Errorf("counters %+v", sum)
			}
			expectReset(t, to)
		})
	}
}

// stuff writes until nothing moves any more.
func stuff(t *testing.T, c *net.TCPConn) (total int) {
	t.Helper()
	b := make([]byte, 256<<10)
	for {
		c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := c.Write(b)
		total += n
		if err != nil {
			return total
		}
	}
}

// A reader that is slow, then reads on, misses nothing; what is kept for it meanwhile is bounded.
func TestBackPressure(t *testing.T) {
	const size = 64 << 20
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.Source(size))}})
	c := g.dial()
	time.Sleep(500 * time.Millisecond)
	if took := g.sum().BytesOut; took > 12<<20 {
		t.Errorf("%d bytes were taken from the server for a client that reads none", took)
	}
	if n, err := lab.CheckPattern(c); n != size || err != nil {
		t.Fatalf("%d bytes and %v, want %d", n, err, size)
	}
	c.Close()
	g.idle()
}

// 200 MiB each way at once, through two loops, byte by byte.
func TestBulkBothWays(t *testing.T) {
	size := int64(200 << 20)
	if testing.Short() {
		size = 20 << 20
	}
	g := start(t, gatewayOptions{loops: 2, servers: []string{serve(t, "127.0.0.1:0", func(c *net.TCPConn) {
		both(t, c, size)
	})}})
	both(t, g.dial(), size)
	if sum := g.idle(); sum.BytesIn != uint64(size) || sum.BytesOut != uint64(size) {
		t.Errorf("counters %+v", sum)
	}
}

func both(t *testing.T, c *net.TCPConn, size int64) {
	var wait sync.WaitGroup
	deadline(t, c, time.Minute)
	wait.Go(func() {
		if _, err := io.Copy(c, lab.Pattern(size)); err != nil {
			t.Error(err)
		}
		c.CloseWrite()
	})
	if n, err := lab.CheckPattern(c); n != size || err != nil {
		t.Errorf("%d bytes and %v, want %d", n, err, size)
	}
	wait.Wait()
}

// Messages of all sizes in bursts: switches between copying and splicing, and back.
func TestSizesComeAndGo(t *testing.T) {
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.Echo)}})
	c := g.dial()
	for _, size := range []int{1, 100, 65535, 65536, 65537, 1 << 20, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 3 << 20, 7, 131072, 8 << 20, 5} {
		var want bytes.Buffer
		io.Copy(&want, lab.Pattern(int64(size)))
		go c.Write(want.Bytes())
		got := make([]byte, size)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatalf("message of %d bytes: %v", size, err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("message of %d bytes is damaged", size)
		}
	}
}

// 10,000 connections, each with a request, an answer and an orderly end; every one must work.
func TestManyShortConnections(t *testing.T) {
	total := 10_000
	if testing.Short() {
		total = 1000
	}
	g := start(t, gatewayOptions{loops: 2, servers: []string{serve(t, "127.0.0.1:0", lab.Echo), serve(t, "127.0.0.1:0", lab.Echo)}})
	var wait sync.WaitGroup
	var next atomic.Int64
	for range 32 {
		wait.Go(func() {
			for next.Add(1) <= int64(total) {
				if err := short(g.addr); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	sum := g.idle()
	if sum.Accepted != uint64(total) || sum.BytesIn != uint64(total)*5 || sum.BytesOut != uint64(total)*5 || sum.Errors != [listen.Kinds]uint64{} {
		t.Errorf("counters %+v", sum)
	}
}

func short(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	if err == nil && string(got) != "hello" {
		err = fmt.Errorf("echo of hello is %q", got)
	}
	return err
}

// Urgent bytes stay where they are in the stream, and do not make a read stop for good.
func TestUrgentBytes(t *testing.T) {
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.Echo)}})
	c := g.dial()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		write(t, c, "before")
		raw.Write(func(fd uintptr) bool {
			err = syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil)
			return err != syscall.EAGAIN
		})
		if err != nil {
			t.Fatal(err)
		}
		write(t, c, "after")
		if i%10 == 0 {
			time.Sleep(time.Millisecond)
		}
		expect(t, c, "before!after")
	}
}

func TestConnectRefused(t *testing.T) {
	g := start(t, gatewayOptions{servers: []string{"127.0.0.1:1"}})
	g.refused()
	if sum := g.idle(); sum.Errors[listen.ConnectRefused] != 1 {
		t.Errorf("counters %+v", sum)
	}
}

func TestIdleTimeout(t *testing.T) {
	g := start(t, gatewayOptions{
		servers:  []string{serve(t, "127.0.0.1:0", lab.Echo)},
		listener: config.Listener{Timeouts: config.Timeouts{Idle: 400 * time.Millisecond, HalfClosed: time.Hour, Connect: time.Hour}},
	})
	c := g.dial()
	begin := time.Now()
	for time.Since(begin) < 900*time.Millisecond { // bytes that move put it off
		write(t, c, "x")
		expect(t, c, "x")
		time.Sleep(100 * time.Millisecond)
	}
	last := time.Now()
	expectReset(t, c)
	if took := time.Since(last); took < 250*time.Millisecond || took > time.Second {
		t.Errorf("reset after %v of idleness, want 400 ms", took)
	}
	if sum := g.idle(); sum.Errors[listen.Idle] != 1 {
		t.Errorf("counters %+v", sum)
	}
}

func TestHalfClosedTimeout(t *testing.T) {
	let := make(chan struct{})
	defer close(let)
	g := start(t, gatewayOptions{
		servers:  []string{serve(t, "127.0.0.1:0", func(*net.TCPConn) { <-let })},
		listener: config.Listener{Timeouts: config.Timeouts{Idle: time.Hour, HalfClosed: 300 * time.Millisecond}},
	})
	c := g.dial()
	c.CloseWrite()
	expectReset(t, c)
	if sum := g.idle(); sum.Errors[listen.HalfClosed] != 1 {
		t.Errorf("counters %+v", sum)
	}
}

// Many readers that read nothing, of servers that send without end: pipes run out, and all get every byte when they read on.
func TestManyBlockedReaders(t *testing.T) {
	lab.NeedInside(t)
	sysctl(t, "net.ipv4.tcp_wmem", "4096 16384 65536") // so that little fits into the kernel and all of them block
	sysctl(t, "net.ipv4.tcp_rmem", "4096 131072 131072")
	const count, size = 300, 2 << 20
	before := descriptors(t)
	g := start(t, gatewayOptions{servers: []string{serve(t, "127.0.0.1:0", lab.Source(size))}})
	var conns []*net.TCPConn
	for range count {
		conns = append(conns, g.dial())
	}
	time.Sleep(500 * time.Millisecond)
	if took := g.sum().BytesOut; took > count*(1<<20) {
		t.Errorf("%d bytes were taken from servers for %d clients that read none", took, count)
	}
	if n := descriptors(t) - before; n > 4*count+2*128+100 {
		t.Errorf("%d more descriptors are open", n)
	}
	var wait sync.WaitGroup
	for _, c := range conns {
		wait.Go(func() {
			defer c.Close()
			deadline(t, c, 2*time.Minute)
			if n, err := lab.CheckPattern(c); n != size || err != nil {
				t.Errorf("%d bytes and %v, want %d", n, err, size)
			}
		})
	}
	wait.Wait()
	g.idle()
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
