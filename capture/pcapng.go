package capture

import (
	"bufio"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/ustack/ustack/link"
)

// A Section says what a pcapng section is of (draft-ietf-opsawg-pcapng).
type Section struct {
	// Application wrote it: "ustack 1.2".
	Application string
	// Interfaces are the links; Record.Link is an index into them.
	Interfaces []Interface
	// Filter and SnapLen are those of the capture.
	Filter  string
	SnapLen int
	// Split writes the frames that a super-frame stands for, with all checksums in
	// place, instead of the super-frame. It needs records of whole frames; SnapLen then cuts
	// what is written.
	Split bool
}

// An Interface is a link in a Section.
type Interface struct {
	Name, Description string
}

// Describe returns what a Section says of a device.
func Describe(dev link.Device) Interface {
	i := dev.Info()
	return Interface{Name: i.Name, Description: fmt.Sprintf("%s, %s driver, MTU %d", i.Kind, i.Driver, i.MTU)}
}

// A Writer writes records as pcapng: Ethernet frames with times in nanoseconds, one interface for
// each link, and for each frame its direction, queue and comments. The comments are
//
//	dropped: tx_down                    the counter under which it was dropped
//	gso tcp4 1448, checksum partial     a super-frame with segments of 1448 bytes
//	checksum partial                    the checksum is left to whoever gets the frame
type Writer struct {
	w     *bufio.Writer
	ng    *pcapgo.NgWriter
	sec   Section
	start time.Time
	n     uint64
	split []byte // a segment
}

// writeBuffer is how many bytes a Writer gathers at most.
const writeBuffer = 16 << 10

// NewWriter writes a section's header.
func NewWriter(w io.Writer, sec Section) (*Writer, error) {
	out := &Writer{w: bufio.NewWriterSize(w, writeBuffer), sec: sec, start: time.Now()}
	for i, link := range sec.Interfaces {
		in := pcapgo.NgInterface{
			Name: link.Name, Description: link.Description, Filter: sec.Filter, OS: runtime.GOOS,
			LinkType: layers.LinkTypeEthernet, SnapLength: uint32(sec.SnapLen),
		}
		var err error
		if i == 0 {
			// It takes a bufio.Writer of this size for its own.
			out.ng, err = pcapgo.NewNgWriterInterface(out.w, in, pcapgo.NgWriterOptions{
				SectionInfo: pcapgo.NgSectionInfo{Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: sec.Application},
			})
		} else {
			_, err = out.ng.AddInterface(in)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Interfaces returns how many links the section has.
func (w *Writer) Interfaces() int { return len(w.sec.Interfaces) }

// Packets returns the number of frames written so far.
func (w *Writer) Packets() uint64 { return w.n }

// Write writes one record; with Split it may become several frames.
func (w *Writer) Write(r *Record) (err error) {
	if w.sec.Split && len(r.Data) == r.Len && (r.Offload.GSOType != link.GSONone || r.Offload.NeedsCsum) {
		var part Record
		if link.Finish(r.Data, r.Offload, func(pieces [][]byte) {
			w.split = w.split[:0]
			for _, p := range pieces {
				w.split = append(w.split, p...)
			}
			part = *r
			part.Data, part.Len, part.Offload = w.split, len(w.split), link.Offload{}
			if err == nil {
				err = w.write(&part)
			}
		}) {
			return err
		}
	}
	return w.write(r)
}

func (w *Writer) write(r *Record) error {
	data := r.Data
	if w.sec.SnapLen > 0 && len(data) > w.sec.SnapLen {
		data = data[:w.sec.SnapLen]
	}
	opts := pcapgo.NgPacketOptions{Comments: r.comments()}
	if !r.NoWay {
		opts.Flags = &pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionOutbound}
		if r.In {
			opts.Flags.Direction = pcapgo.NgEpbFlagDirectionInbound
		}
	}
	if r.Queue > 0 {
		number := uint32(r.Queue)
		opts.Queue = &number
	}
	w.n++
	return w.ng.WritePacketWithOptions(gopacket.CaptureInfo{
		Timestamp: r.Time, CaptureLength: len(data), Length: max(r.Len, len(data)), InterfaceIndex: r.Link,
	}, data, opts)
}

const (
	droppedPrefix   = "dropped: "
	gsoPrefix       = "gso "
	checksumPartial = "checksum partial"
)

// comments are what a pcapng packet block has no field for.
func (r *Record) comments() (list []string) {
	if r.Drop != "" {
		list = append(list, droppedPrefix+r.Drop)
	}
	var left []string
	switch r.Offload.GSOType {
	case link.GSOTCPv4:
		left = append(left, fmt.Sprintf(gsoPrefix+"tcp4 %d", r.Offload.GSOSize))
	case link.GSOTCPv6:
		left = append(left, fmt.Sprintf(gsoPrefix+"tcp6 %d", r.Offload.GSOSize))
	}
	if r.Offload.NeedsCsum {
		left = append(left, checksumPartial)
	}
	if len(left) > 0 {
		list = append(list, strings.Join(left, ", "))
	}
	return append(list, r.Comments...)
}

// Flush hands on what was gathered.
func (w *Writer) Flush() error { return w.w.Flush() }

// Close writes what a capture has seen at each interface, and flushes. It closes nothing.
func (w *Writer) Close(counts []Counts) error {
	now := time.Now()
	for i, c := range counts {
		if err := w.ng.WriteInterfaceStats(i, pcapgo.NgInterfaceStatistics{
			LastUpdate: now, StartTime: w.start, EndTime: now,
			PacketsReceived: c.Matched, PacketsDropped: c.Dropped,
		}); err != nil {
			return err
		}
	}
	return w.Flush()
}
