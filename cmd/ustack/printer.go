package main

import (
	"bufio"
	"fmt"
	"strings"
	"time"

	"github.com/ustack/ustack/capture"
	"github.com/ustack/ustack/capture/show"
	"github.com/ustack/ustack/link"
)

// A printer prints captured frames, as tcpdump would.
type printer struct {
	f       *captureFlags
	out     *bufio.Writer
	names   *names // nil with -n
	streams *show.Streams
	first   time.Time
	last    time.Time
}

func (a *app) newPrinter(f *captureFlags) *printer {
	p := &printer{f: f, out: bufio.NewWriter(a.Stdout)}
	if !f.numeric {
		p.names = newNames()
	}
	if !f.absolute {
		p.streams = new(show.Streams)
	}
	return p
}

func (p *printer) flush() error { return p.out.Flush() }

func (p *printer) close() {
	_ = p.out.Flush()
	if p.names != nil {
		p.names.close()
	}
}

// print prints one frame.
func (p *printer) print(r *capture.Reader, rec *capture.Record) error {
	f, frame := p.f, rec.Data
	p.out.WriteString(p.time(rec.Time))
	if f.verbose > 0 || r.Interfaces() > 1 {
		way := "Out"
		switch {
		case rec.In:
			way = "In "
		case rec.NoWay:
			way = "?  "
		}
		if name := r.Interface(rec.Link).Name; name != "" {
			fmt.Fprintf(p.out, "%s ", printable(name))
		}
		fmt.Fprintf(p.out, "%s ", way)
	}
	o := show.Options{
		Ether: f.ether, Verbose: f.verbose > 0, WireLen: rec.Len, PartialChecksum: rec.Offload.NeedsCsum, Streams: p.streams,
	}
	if p.names != nil {
		o.Host, o.Port = p.names.host, p.names.port
	}
	p.out.WriteString(show.Line(frame, o))
	if rec.Drop != "" {
		fmt.Fprintf(p.out, " [dropped: %s]", printable(rec.Drop))
	}
	if f.verbose > 0 && rec.Offload.GSOType != link.GSONone {
		fmt.Fprintf(p.out, " [gso %d]", rec.Offload.GSOSize)
	}
	for _, c := range rec.Comments {
		fmt.Fprintf(p.out, " [%s]", printable(c))
	}
	p.out.WriteByte('\n')
	p.dump(frame)
	return p.flushed()
}

// flushed tells of a reader that has gone, before much is printed for nobody.
func (p *printer) flushed() error {
	if p.out.Available() < p.out.Size()/4 {
		return p.out.Flush()
	}
	return nil
}

// dump prints the bytes of a frame, without its Ethernet header unless that was asked for.
func (p *printer) dump(frame []byte) {
	const header = 14
	level := max(p.f.hex, p.f.ascii)
	if level == 0 {
		return
	}
	if level == 1 {
		frame = frame[min(header, len(frame)):]
	}
	p.out.WriteString(show.Hex(frame, p.f.ascii > 0))
}

// time is the beginning of a line.
func (p *printer) time(at time.Time) string {
	at = at.Local()
	if p.first.IsZero() {
		p.first, p.last = at, at
	}
	since := func(from time.Time) string {
		d, sign := at.Sub(from), ""
		if d < 0 {
			d, sign = -d, "-"
		}
		seconds := d / time.Second
		return fmt.Sprintf("%s%02d:%02d:%02d.%06d ", sign, seconds/3600, seconds/60%60, seconds%60, d%time.Second/time.Microsecond)
	}
	defer func() { p.last = at }()
	switch p.f.times {
	case 0:
		return at.Format("15:04:05.000000 ")
	case 1:
		return ""
	case 2:
		return fmt.Sprintf("%d.%06d ", at.Unix(), at.Nanosecond()/1000)
	case 3:
		return " " + strings.TrimPrefix(since(p.last), " ")
	case 4:
		return at.Format("2006-01-02 15:04:05.000000 ")
	}
	return " " + since(p.first)
}
