// Package htpasswd checks names and passwords against a file of bcrypt hashes, off the event loops.
//
// bcrypt is slow on purpose, tens of milliseconds for a password, and clients send theirs with every request. So checks run on a few goroutines with a bounded
// queue, and an outcome is remembered for a while, under a keyed hash of name and password. The passwords themselves are not kept.
package htpasswd

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

const (
	// MaxUsers bounds the users of a file.
	MaxUsers = 100_000
	// goodFor and badFor are how long an outcome is remembered. A bad one is forgotten soon, for its password may be set meanwhile.
	goodFor = 5 * time.Minute
	badFor  = 10 * time.Second
	// mostKept bounds the outcomes that are remembered.
	mostKept = 8192
	// mostWaiting bounds the checks that wait; beyond it a client is told to come again. It is what makes a flood of passwords harmless.
	mostWaiting = 256
	// maxCost bounds the cost of a hash: 14 takes about a second.
	maxCost = 14
	// maxCredentials bounds what Parse reads.
	maxCredentials = 1024
)

// Answer says whether somebody is who they say.
type Answer uint8

const (
	Wrong Answer = iota
	Right
	Busy // too many are being checked: try again
)

// Users checks against one file at a time. Its methods may be called by all goroutines at once.
type Users struct {
	hashes atomic.Pointer[map[string][]byte]
	key    [32]byte
	nobody []byte // a hash that names without one are checked against, so that time does not tell who exists

	jobs chan job
	mu   sync.Mutex
	kept map[[32]byte]outcome
	now  func() time.Time
}

type outcome struct {
	right bool
	until time.Time
}

type job struct {
	key            [32]byte
	name, password string
	done           func(Answer)
}

// New makes Users without any, and starts the goroutines that check. They live as long as the process.
func New() (*Users, error) {
	u := &Users{jobs: make(chan job, mostWaiting), kept: map[[32]byte]outcome{}, now: time.Now}
	if _, err := rand.Read(u.key[:]); err != nil {
		return nil, fmt.Errorf("htpasswd: %w", err)
	}
	nobody, err := bcrypt.GenerateFromPassword(u.key[:16], bcrypt.DefaultCost)
	if err != nil {
		return nil, fmt.Errorf("htpasswd: %w", err)
	}
	u.nobody = nobody
	u.hashes.Store(&map[string][]byte{})
	for range max(1, runtime.NumCPU()/2) {
		go u.work()
	}
	return u, nil
}

// Load puts the users of a file in force. After an error those before stay. It forgets every outcome.
func (u *Users) Load(r io.Reader) error {
	hashes, err := read(r)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hashes.Store(&hashes)
	clear(u.kept)
	return nil
}

// read reads lines as htpasswd -B writes them.
func read(r io.Reader) (map[string][]byte, error) {
	hashes := map[string][]byte{}
	lines := bufio.NewScanner(r)
	n := 0
	for lines.Scan() {
		n++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(string(line), ":")
		cost, err := bcrypt.Cost([]byte(hash))
		switch {
		case !ok || name == "":
			return nil, fmt.Errorf("line %d: not NAME:HASH", n)
		case err != nil:
			return nil, fmt.Errorf("line %d: the hash of %.40q is not bcrypt: write it with  htpasswd -B", n, name)
		case cost > maxCost:
			return nil, fmt.Errorf("line %d: the hash of %.40q has cost %d, more than %d: a check would take many seconds", n, name, cost, maxCost)
		case len(hashes) == MaxUsers:
			return nil, fmt.Errorf("line %d: more than %d users", n, MaxUsers)
		}
		hashes[name] = []byte(hash)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return hashes, nil
}

// Check asks whether the password is the user's. When the outcome is remembered, or too much is waiting, it returns that at once; else known is false,
// and done is called later, once, on another goroutine. It never waits and copies what it keeps.
func (u *Users) Check(name, password string, done func(Answer)) (a Answer, known bool) {
	key := u.fingerprint(name, password)
	now := u.now()
	u.mu.Lock()
	o, found := u.kept[key]
	u.mu.Unlock()
	if found && now.Before(o.until) {
		if o.right {
			return Right, true
		}
		return Wrong, true
	}
	select {
	case u.jobs <- job{key, strings.Clone(name), strings.Clone(password), done}:
		return Busy, false
	default:
		return Busy, true
	}
}

// fingerprint is what an outcome is remembered under.
func (u *Users) fingerprint(name, password string) (key [32]byte) {
	mac := hmac.New(sha256.New, u.key[:])
	fmt.Fprintf(mac, "%d:", len(name)) // a hash never fails
	io.WriteString(mac, name)
	io.WriteString(mac, password)
	mac.Sum(key[:0])
	return key
}

func (u *Users) work() {
	for j := range u.jobs {
		hashes := u.hashes.Load()
		hash, exists := (*hashes)[j.name]
		if !exists {
			hash = u.nobody
		}
		right := bcrypt.CompareHashAndPassword(hash, []byte(j.password)) == nil && exists
		u.keep(j.key, right, hashes)
		if right {
			j.done(Right)
		} else {
			j.done(Wrong)
		}
	}
}

// keep remembers an outcome that was found by the hashes in force.
func (u *Users) keep(key [32]byte, right bool, by *map[string][]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.hashes.Load() != by {
		return
	}
	now := u.now()
	if len(u.kept) >= mostKept {
		for k, o := range u.kept {
			if !now.Before(o.until) || len(u.kept) >= mostKept { // a map's order is random: whoever is hit is asked for again
				delete(u.kept, k)
			}
		}
	}
	o := outcome{right, now.Add(badFor)}
	if right {
		o.until = now.Add(goodFor)
	}
	u.kept[key] = o
}

// Parse reads the value of Authorization or Proxy-Authorization with the Basic scheme (RFC 7617). ok is false for every other.
func Parse(field string) (name, password string, ok bool) {
	scheme, rest, found := strings.Cut(field, " ")
	if !found || !strings.EqualFold(scheme, "Basic") || len(rest) > maxCredentials {
		return "", "", false
	}
	text, err := base64.StdEncoding.DecodeString(strings.Trim(rest, " "))
	if err != nil || !utf8.Valid(text) || bytes.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}

// Challenge returns the value of WWW-Authenticate or Proxy-Authenticate for a realm.
func Challenge(realm string) string {
	return `Basic realm="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(realm) + `", charset="UTF-8"`
}
