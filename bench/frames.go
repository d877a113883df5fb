package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// framesAtOnce are the frames of one write.
const framesAtOnce = 32

// frames sends frames of 64 bytes, each behind its length, from one socket of a switch to another as
// fast as it takes them, and counts what arrives.
func frames(j job) (result, error) {
	a, b, ok := strings.Cut(j.Addr, ",")
	if !ok {
		return result{}, fmt.Errorf("%q: two sockets are needed", j.Addr)
	}
	from, err := net.Dial("unix", a)
	if err != nil {
		return result{}, err
	}
	defer from.Close()
	to, err := net.Dial("unix", b)
	if err != nil {
		return result{}, err
	}
	defer to.Close()
	const size = 64
	here, there := []byte{2, 0, 0, 0, 0, 0xa}, []byte{2, 0, 0, 0, 0, 0xb}
	frame := func(dst, src []byte) []byte {
		f := binary.BigEndian.AppendUint32(nil, size)
		f = append(append(append(f, dst...), src...), 0x88, 0xb5)
		return append(f, make([]byte, size-14)...)
	}
	// Until the switch knows where they are.
	deadline := time.Now().Add(10 * time.Second)
	buf := make([]byte, 1<<20)
	for known := false; !known; {
		if time.Now().After(deadline) {
			return result{}, errors.New("no frame came through the switch within 10 s")
		}
		if _, err := to.Write(frame(here, there)); err != nil {
			return result{}, err
		}
		if _, err := from.Write(frame(there, here)); err != nil {
			return result{}, err
		}
		to.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := to.Read(buf)
		known = err == nil && n >= size
	}
	to.SetReadDeadline(time.Time{})
	failed := make(chan error, 1)
	go func() {
		many := bytes.Repeat(frame(there, here), framesAtOnce)
		for {
			if _, err := from.Write(many); err != nil {
				failed <- err
				return
			}
		}
	}()
	var got uint64
	read := func(end time.Time) error {
		to.SetReadDeadline(end.Add(10 * time.Second))
		for time.Now().Before(end) {
			n, err := to.Read(buf)
			if got += uint64(n); err != nil {
				return err
			}
		}
		return nil
	}
	if err := read(time.Now().Add(50 * time.Millisecond)); err != nil {
		return result{}, err
	}
	got = 0
	began := time.Now()
	err = read(began.Add(j.Time))
	took := time.Since(began)
	// The sender may wait for room.
	from.Close()
	go io.Copy(io.Discard, to)
	<-failed
	return result{Count: int(got / (size + 4)), Time: took}, err
}
