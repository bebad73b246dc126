package htpasswd

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func line(t testing.TB, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + strings.Replace(string(hash), "$2a$", "$2y$", 1) + "\n" // as htpasswd writes it
}

// ask waits for an answer, and says whether it was known at once.
func ask(t testing.TB, u *Users, name, password string) (Answer, bool) {
	t.Helper()
	answers := make(chan Answer, 1)
	a, known := u.Check(name, password, func(a Answer) { answers <- a })
	if known {
		return a, true
	}
	select {
	case a := <-answers:
		return a, false
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
	}
	return 0, false
}

func TestCheck(t *testing.T) {
	u, err := New()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	u.now = func() time.Time { return now }
	if a, _ := ask(t, u, "alice", "secret"); a != Wrong {
		t.Error("somebody passes where there is nobody")
	}
	if err := u.Load(strings.NewReader("# users\n\n" + line(t, "alice", "secret") + line(t, "bob", "with:colon"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, password string
		want           Answer
		known          bool
	}{{"alice", "secret", Right, false}, {"alice", "secret", Right, true}, {"alice", "Secret", Wrong, false}, {"alice", "Secret", Wrong, true}, {"bob", "with:colon", Right, false},
		{"bob", "secret", Wrong, false}, {"carol", "secret", Wrong, false}, {"", "", Wrong, false}, {"alices", "ecret", Wrong, false}} {
		if a, known := ask(t, u, c.name, c.password); a != c.want || known != c.known {
			t.Errorf("%s %s: %d, known %v", c.name, c.password, a, known)
		}
	}
	now = now.Add(goodFor)
	if a, known := ask(t, u, "alice", "secret"); a != Right || known {
		t.Errorf("%d, known %v after its time", a, known)
	}
	if err := u.Load(strings.NewReader("alice:{SHA}xyz\n")); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a bad file: %v", err)
	}
	if a, _ := ask(t, u, "alice", "secret"); a != Right {
		t.Error("a bad file threw the users away")
	}
	if err := u.Load(strings.NewReader(line(t, "alice", "new"))); err != nil {
		t.Fatal(err)
	}
	if a, _ := ask(t, u, "alice", "secret"); a != Wrong {
		t.Error("the password before is still good")
	}
}

func TestBounds(t *testing.T) {
	u := &Users{jobs: make(chan job, 2), kept: map[[32]byte]outcome{}, now: time.Now} // nobody works
	u.hashes.Store(&map[string][]byte{})
	for i := range 3 {
		if _, known := u.Check(fmt.Sprint(i), "", nil); known != (i == 2) {
			t.Errorf("check %d: known %v", i, known)
		}
	}
	for i := range mostKept + 100 {
		u.keep([32]byte{byte(i), byte(i >> 8)}, true, u.hashes.Load())
	}
	if len(u.kept) > mostKept {
		t.Errorf("%d outcomes kept", len(u.kept))
	}
}

func TestRead(t *testing.T) {
	for text, want := range map[string]string{"alice": "not NAME:HASH", ":x": "not NAME:HASH", "a:$apr1$x$y": "not bcrypt", "a:$2y$20$" + strings.Repeat("a", 53): "cost 20", strings.Repeat("x", 1<<17): "line 1"} {
		if _, err := read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: %v, want %q", text, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for field, want := range map[string][3]string{
		basic("alice:a:b"): {"alice", "a:b", "true"}, "bAsIc  " + basic("a:")[6:]: {"a", "", "true"}, basic("alice"): {"alice", "", "false"}, "Bearer x": {}, "": {}, "Basic !": {}, basic("a\n:b"): {}, basic("\xff:b"): {}, basic(strings.Repeat("a", 2000) + ":"): {},
	} {
		name, password, ok := Parse(field)
		if want[2] == "true" && (!ok || name != want[0] || password != want[1]) || want[2] != "true" && ok {
			t.Errorf("%.30q: %q %q %v", field, name, password, ok)
		}
	}
	if c := Challenge(`a "b" \`); c != `Basic realm="a \"b\" \\", charset="UTF-8"` {
		t.Error(c)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("Basic YTpi")
	f.Fuzz(func(t *testing.T, s string) {
		if name, _, ok := Parse(s); ok && strings.ContainsAny(name, "\n\r\x00:") {
			t.Errorf("%q", name)
		}
	})
}
