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
	r.Time, err = pace(j.Time, j.Rate, func() error {
		_, err := c.Write(b[:])
		switch {
		case err == nil:
			r.Sent++
		case errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ECONNREFUSED):
			r.Errors++
		default:
			return err
		}
		return nil
	})
	return r, err
}

// pace calls send for a time, rate times a second, or as often as possible where that is
// 0: every millisecond so often as was due since the last. It returns the time that it
// took.
func pace(d time.Duration, rate int, send func() error) (time.Duration, error) {
	const most = 16 // sends between two looks at the clock
	began := time.Now()
	for done := 0; ; {
		now := time.Since(began)
		if now >= d {
			return now, nil
		}
		due := done + most
		if rate > 0 {
			due = int(now.Seconds() * float64(rate))
		}
		for ; done < due; done++ {
			if err := send(); err != nil {
				return time.Since(began), err
			}
		}
		if rate > 0 {
			time.Sleep(time.Millisecond)
		}
	}
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
	binary.BigEndian.PutUint32(ask[3:], uint32(j.Rate))
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
