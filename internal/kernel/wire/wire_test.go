package wire

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func TestAttrsRoundTrip(t *testing.T) {
	b := Append(nil, String(1, "lo"), U8(2, 7), U32(3, 0xdeadbeef), BE32(5, 1), BE64(6, 2), Bytes(7, []byte{1, 2, 3, 4, 5}), Nest(8, U32(1, 9), Nest(2)), Nest(9))
	if len(b)%4 != 0 {
		t.Errorf("%d bytes are not aligned", len(b))
	}
	as, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	raw, ok := as.Get(7)
	if as.String(1) != "lo" || as.U8(2) != 7 || as.U32(3) != 0xdeadbeef || as.BE32(5) != 1 || as.BE32(6) != 0 || !as.Has(6) || !ok || !slices.Equal(raw, []byte{1, 2, 3, 4, 5}) ||
		as.Nested(8).U32(1) != 9 || !as.Nested(8).Has(2) || !as.Has(9) || as.Has(10) || as.U32(10) != 0 || as.U32(2) != 0 {
		t.Errorf("%v", as)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Append(nil, String(1, "lo"), Nest(8, U32(1, 9))))
	f.Add([]byte{3, 0, 0, 0})
	f.Add([]byte{5, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		as, err := Decode(b)
		if err != nil {
			return
		}
		total := 0
		for _, a := range as {
			total += len(a.Data) + unix.SizeofNlAttr
			as.Nested(a.Type)
			_ = as.String(a.Type)
		}
		if total > len(b) {
			t.Errorf("%d bytes out of %d", total, len(b))
		}
		_ = split(b[:len(b)&^3], func(m netlink.Message) error { _ = refusal(Message{Body: b}, m); return nil })
		for offset := range len(b) + 20 {
			readable(Message{Body: b}, offset)
		}
	})
}

func TestRefusedRequest(t *testing.T) {
	s, err := Open(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, unix.SizeofIfInfomsg)
	body = Append(body, String(unix.IFLA_IFNAME, "no-such-link"))
	_, err = s.Do(Message{Type: unix.RTM_GETLINK, Body: body, Operation: "read", Object: "interface no-such-link"})
	var e *Error
	if !errors.As(err, &e) || !Is(err, unix.ENODEV) || e.Error() != "read interface no-such-link: no such device (ENODEV)" {
		t.Errorf("error: %v", err)
	}
	if list, err := s.Dump(Message{Type: unix.RTM_GETLINK, Body: make([]byte, unix.SizeofIfInfomsg), Operation: "list", Object: "interfaces"}); err != nil || len(list) == 0 {
		t.Errorf("after a refusal: %d interfaces, %v", len(list), err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := s.Do(Message{Type: unix.RTM_GETLINK, Body: body}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
