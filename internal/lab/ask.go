package lab

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Ask makes n short exchanges from the host with whoever answers at an address, several at once: over TCP it connects, reads a line and
// resets, over UDP it sends a byte and reads a packet. from says the source of each; nil and invalid addresses leave it to the kernel. It
// returns what was answered, "" where there was an error, and one of the errors.
func (h *Host) Ask(network, to string, n int, from func(i int) netip.Addr) ([]string, error) {
	answers := make([]string, n)
	errs := make([]error, n)
	next := make(chan int)
	var wait sync.WaitGroup
	for range 4 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := range next {
				var source netip.Addr
				if from != nil {
					source = from(i)
				}
				errs[i] = h.Do(func() (err error) {
					answers[i], err = ask(network, to, source)
					return err
				})
			}
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	wait.Wait()
	for i, err := range errs {
		if err != nil {
			return answers, h.fault(err, "exchange %d with %s", i, to)
		}
	}
	return answers, nil
}

func ask(network, to string, from netip.Addr) (string, error) {
	d := net.Dialer{Timeout: 5 * time.Second, KeepAlive: -1}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
	}
	c, err := d.Dial(network, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if network == "udp" {
		if _, err := c.Write([]byte{'?'}); err != nil {
			return "", err
		}
		b := make([]byte, 512)
		n, err := c.Read(b)
		return string(b[:n]), err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil {
		_ = c.(*net.TCPConn).SetLinger(0) // nothing is left in TIME_WAIT
	}
	return strings.TrimSuffix(line, "\n"), err
}

// AnswerUDP answers every packet at an address of the host with a text, until it is closed.
func (h *Host) AnswerUDP(addr, text string) (close func() error, err error) {
	var c net.PacketConn
	if err := h.Do(func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
		return nil, h.fault(err, "listen on UDP %s", addr)
	}
	go func() {
		b := make([]byte, 2048)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(packetWriter{c, from}, text)
		}
	}()
	return c.Close, nil
}

type packetWriter struct {
	net.PacketConn
	to net.Addr
}

func (w packetWriter) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }
