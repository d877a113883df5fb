package main

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

func (j job) dialUDP() (*net.UDPConn, error) {
	c, err := net.Dial("udp4", net.JoinHostPort(j.Addr, strconv.Itoa(udpPort)))
	if err != nil {
		return nil, err
	}
	u := c.(*net.UDPConn)
	u.SetReadBuffer(udpBuffer) // as much as the kernel permits
	return u, nil
}

// push sends datagrams to the server for j.Time; how many arrived is the server's
// "packets".
func push(j job) (result, error) {
	c, err := j.dialUDP()
	if err != nil {
		return result{}, err
	}
	defer c.Close()
	var b [datagramLen]byte
	b[0] = datagramCounted
	var r result
	began := time.Now()
	for time.Since(began) < j.Time {
		for range 16 {
			_, err := c.Write(b[:])
			switch {
			case err == nil:
				r.Sent++
			case errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ECONNREFUSED):
				r.Errors++
			default:
				return r, err
			}
		}
	}
	r.Time = time.Since(began)
	return r, nil
}

// pull lets the server send datagrams for j.Time and counts what arrives.
func pull(j job) (result, error) {
	c, err := j.dialUDP()
	if err != nil {
		return result{}, err
	}
	defer c.Close()
	ask := make([]byte, datagramLen)
	ask[0] = datagramFlood
	binary.BigEndian.PutUint16(ask[1:], uint16(j.Time.Milliseconds()))
	var r result
	b := make([]byte, 2048)
	var began, last time.Time
	over := time.Now().Add(j.Time + 10*time.Second)
	for asks := 0; time.Now().Before(over); {
		if began.IsZero() { // the request may get lost
			if asks++; asks > 20 {
				break
			}
			if _, err := c.Write(ask); err != nil {
				return r, err
			}
			c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		}
		n, err := c.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if !began.IsZero() {
				break
			}
			continue
		}
		if err != nil {
			return r, err
		}
		if n < 9 {
			continue
		}
		if b[0] == datagramFlood {
			r.Sent = int(binary.LittleEndian.Uint64(b[1:]))
			break
		}
		r.Count++
		last = time.Now()
		if began.IsZero() {
			began = last
			c.SetReadDeadline(over)
		}
	}
	if r.Count == 0 || r.Sent == 0 {
		return r, errors.New("the server's datagrams, or their number, did not arrive")
	}
	r.Time = max(last.Sub(began), j.Time)
	return r, nil
}
