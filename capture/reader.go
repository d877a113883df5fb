package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/ustack/ustack/link"
)

// A Reader reads pcapng, or pcap, into records.
type Reader struct {
	ng   *pcapgo.NgReader
	old  *pcapgo.Reader
	rec  Record
	more *bufio.Reader

	foreign     int // frames left out
	foreignType layers.LinkType
}

// NewReader reads the beginning of a file.
func NewReader(r io.Reader) (_ *Reader, err error) {
	defer noPanic(&err)
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(4)
	if err != nil {
		if err == io.EOF && len(magic) == 0 {
			return nil, errors.New("it is empty")
		}
		return nil, fmt.Errorf("it is no capture: %w", unexpected(err))
	}
	out := &Reader{more: in}
	linkType := layers.LinkTypeEthernet
	if binary.LittleEndian.Uint32(magic) == blockSection {
		out.ng, err = pcapgo.NewNgReader(in, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
	} else if out.old, err = pcapgo.NewReader(in); err == nil {
		linkType = out.old.LinkType()
	}
	if err != nil {
		return nil, fmt.Errorf("it is no pcapng or pcap file: %w", unexpected(err))
	}
	if linkType != layers.LinkTypeEthernet {
		return nil, fmt.Errorf("its frames are %v: only Ethernet is understood", linkType)
	}
	return out, nil
}

// noPanic makes an error of a panic: what strangers wrote is decoded by others.
func noPanic(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("it is malformed: %v", p)
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Read returns the next record, which is valid until the next call. Frames of other links than
// Ethernet are left out; that there were any is the error at the end, which is io.EOF otherwise.
func (r *Reader) Read() (_ *Record, err error) {
	defer noPanic(&err)
	for {
		var data []byte
		var ci gopacket.CaptureInfo
		var opts pcapgo.NgPacketOptions
		if r.ng != nil {
			data, ci, opts, err = r.ng.ReadPacketDataWithOptions()
		} else {
			data, ci, err = r.old.ReadPacketData()
		}
		if err == io.EOF && r.foreign > 0 {
			return nil, fmt.Errorf("%d of its frames are left out, as they are %v: only Ethernet is understood", r.foreign, r.foreignType)
		}
		if err != nil {
			return nil, err
		}
		if len(ci.AncillaryData) > 0 {
			if t, ok := ci.AncillaryData[0].(layers.LinkType); ok && t != layers.LinkTypeEthernet {
				r.foreign, r.foreignType = r.foreign+1, t
				continue
			}
		}
		if ci.Timestamp.IsZero() {
			ci.Timestamp = time.Unix(0, 0) // a simple packet block has none
		}
		r.rec = Record{Time: ci.Timestamp, Link: ci.InterfaceIndex, Len: ci.Length, Data: data, NoWay: true}
		if opts.Flags != nil {
			switch opts.Flags.Direction {
			case pcapgo.NgEpbFlagDirectionInbound:
				r.rec.In, r.rec.NoWay = true, false
			case pcapgo.NgEpbFlagDirectionOutbound:
				r.rec.NoWay = false
			}
		}
		if opts.Queue != nil {
			r.rec.Queue = int(*opts.Queue & 0xffff)
		}
		for _, c := range opts.Comments {
			r.rec.comment(c)
		}
		if o := &r.rec.Offload; o.NeedsCsum {
			o.CsumStart, o.CsumOffset = transport(data)
		}
		return &r.rec, nil
	}
}

// transport returns where the transport header of a frame is, and its checksum in it; zero if it
// is none that is known.
func transport(b []byte) (start, offset uint16) {
	at := 12
	for range 2 {
		if len(b) >= at+6 && (b[at] == 0x81 && b[at+1] == 0 || b[at] == 0x88 && b[at+1] == 0xa8) {
			at += 4 // IEEE 802.1Q
		}
	}
	if len(b) < at+2+40 {
		return 0, 0
	}
	typ, ip := binary.BigEndian.Uint16(b[at:]), at+2
	var proto byte
	switch {
	case typ == 0x0800 && b[ip]>>4 == 4: // RFC 791 section 3.1
		proto, at = b[ip+9], ip+int(b[ip]&0xf)*4
	case typ == 0x86dd && b[ip]>>4 == 6: // RFC 8200 section 3
		proto, at = b[ip+6], ip+40
	default:
		return 0, 0
	}
	switch proto {
	case 6:
		return uint16(at), 16
	case 17:
		return uint16(at), 6
	}
	return 0, 0
}

// comment is the inverse of comments.
func (r *Record) comment(text string) {
	if why, ok := strings.CutPrefix(text, droppedPrefix); ok {
		r.Drop = why
		return
	}
	known, o := true, r.Offload
	for part := range strings.SplitSeq(text, ", ") {
		var size uint16
		switch {
		case part == checksumPartial:
			o.NeedsCsum = true
		case scan(part, gsoPrefix+"tcp4 %d", &size):
			o.GSOType, o.GSOSize = link.GSOTCPv4, size
		case scan(part, gsoPrefix+"tcp6 %d", &size):
			o.GSOType, o.GSOSize = link.GSOTCPv6, size
		default:
			known = false
		}
	}
	if known {
		r.Offload = o
		return
	}
	r.Comments = append(r.Comments, text)
}

func scan(text, format string, v *uint16) bool {
	n, err := fmt.Sscanf(text, format, v)
	return err == nil && n == 1
}

// Waiting reports whether the next Read may have to wait for input.
func (r *Reader) Waiting() bool { return r.more.Buffered() == 0 }

// Interface returns what the file says of a link, as far as it was read.
func (r *Reader) Interface(i int) Interface {
	if r.ng == nil {
		return Interface{}
	}
	in, err := r.ng.Interface(i)
	if err != nil {
		return Interface{}
	}
	return Interface{Name: in.Name, Description: in.Description}
}

// Interfaces returns how many links the file has told of so far.
func (r *Reader) Interfaces() int {
	if r.ng == nil {
		return 1
	}
	return r.ng.NInterfaces()
}

// Counts returns what the file says was seen at all links, and whether it says so.
func (r *Reader) Counts() (c Counts, ok bool) {
	for i := range r.Interfaces() {
		if r.ng == nil {
			break
		}
		in, err := r.ng.Interface(i)
		if err != nil || in.Statistics.PacketsReceived == pcapgo.NgNoValue64 {
			continue
		}
		c.Matched += in.Statistics.PacketsReceived
		if in.Statistics.PacketsDropped != pcapgo.NgNoValue64 {
			c.Dropped += in.Statistics.PacketsDropped
		}
		ok = true
	}
	return c, ok
}
