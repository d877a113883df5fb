package stack

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

func TestPayload(t *testing.T) {
	all := []byte("head and body")
	for cut := range len(all) + 1 {
		for step := 1; step <= len(all); step++ {
			p := &payload{head: all[:cut], body: all[cut:]}
			var got []byte
			buf := make([]byte, step)
			for p.Len() > 0 {
				if p.Len() != len(all)-len(got) {
					t.Fatalf("cut %d, step %d: %d bytes left after %d", cut, step, p.Len(), len(got))
				}
				n, err := p.Read(buf)
				if n == 0 || err != nil {
					t.Fatalf("cut %d, step %d: Read = %d, %v", cut, step, n, err)
				}
				got = append(got, buf[:n]...)
			}
			if _, err := p.Read(nil); err != io.EOF || !bytes.Equal(got, all) {
				t.Fatalf("cut %d, step %d: read %q, then %v", cut, step, got, err)
			}
		}
	}
}

// bulkNow makes the next write one of many.
func (c *TCPConn) bulkNow() { c.bulk = bulk{run: holdAfter, last: time.Now().Add(time.Hour)} }

// holds returns how many bytes are held back.
func (c *TCPConn) holds() int {
	h := c.held.Load()
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

// bulkWrite writes b as one of many writes.
func bulkWrite(t *testing.T, c *TCPConn, b []byte) {
	t.Helper()
	c.bulkNow()
	if n, err := c.Write(b); n != len(b) || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// Bytes arrive once and in order whatever the sizes of writes are.
func TestBulkWriteSizes(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer s.Close()
	want := randomBytes(8 << 20)
	go func() {
		rng := rand.New(rand.NewPCG(1, 2))
		sizes := []int{1, 100, 1448, 1 << 10, 16 << 10, superPayload - 1, superPayload, superPayload + 1, 128 << 10, 300_000}
		for rest := want; len(rest) > 0; {
			n := min(sizes[rng.IntN(len(sizes))], len(rest))
			if rng.IntN(4) > 0 {
				c.bulkNow()
			}
			if _, err := c.Write(rest[:n]); err != nil {
				t.Errorf("Write: %v", err)
				break
			}
			rest = rest[n:]
		}
		c.Close()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d of %d bytes, equal: %v, %v", len(got), len(want), bytes.Equal(got, want), err)
	}
}

// What is held back arrives by itself, and at once when the application waits for an
// answer, ends its side, or closes.
func TestHeldBytesArrive(t *testing.T) {
	const held = 324
	sent := randomBytes(2*superPayload + held)
	for name, then := range map[string]func(c *TCPConn){
		"later":      func(*TCPConn) {},
		"Read":       func(c *TCPConn) { go c.Read(make([]byte, 1)) },
		"CloseWrite": func(c *TCPConn) { c.CloseWrite() },
		"Close":      func(c *TCPConn) { c.Close() },
		"Write":      func(c *TCPConn) { c.bulk = bulk{}; c.Write(nil); c.Write([]byte{1}) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, link.PipeConfig{})
			c, s := connect(t, a, b, "10.0.0.2")
			defer s.Close()
			defer c.Close()
			h := new(hold)
			c.held.Store(h)
			if name != "later" {
				h.runs = true // as if the timer were set: nothing but then lets go
			}
			bulkWrite(t, c, sent)
			if n := c.holds(); n != held && name != "later" {
				t.Errorf("%d bytes are held, want %d", n, held)
			}
			then(c)
			got := make([]byte, len(sent))
			s.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%v; equal: %v", err, bytes.Equal(got, sent))
			}
		})
	}
}

// Every byte that a Write has counted arrives after Close, also when the peer did not
// read and the send buffer was full.
func TestHeldBytesFullBuffer(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer s.Close()
	sent := randomBytes(32 << 20)
	c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	done := 0
	for {
		c.bulkNow()
		n, err := c.Write(sent[done : done+20_000])
		if done += n; errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	// A little more is held although there is no room.
	h := c.held.Load()
	h.mu.Lock()
	c.keep(h, sent[done:done+100])
	h.mu.Unlock()
	done += 100
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, sent[:done]) {
		t.Errorf("got %d of %d bytes, %v", len(got), done, err)
	}
}

// Writes fail after CloseWrite, also those that would only be held.
func TestHoldAfterCloseWrite(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer s.Close()
	defer c.Close()
	bulkWrite(t, c, make([]byte, 1000))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.bulkNow()
	if n, err := c.Write(make([]byte, 1000)); n != 0 || err == nil {
		t.Errorf("Write after CloseWrite = %d, %v", n, err)
	}
}
