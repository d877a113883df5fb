package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// pcapng blocks (draft-ietf-opsawg-pcapng, section 3): type and length, body, length again. The
// Writer writes them in little-endian order.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6

	blockLeast = 12
	// blockMost bounds a block that is copied: a frame with all of its comments is far less.
	blockMost = 1 << 20
)

// An OutputConfig says where a capture is stored.
type OutputConfig struct {
	// Name of the file; "-" is Stdout.
	Name   string
	Stdout io.Writer
	// MaxBytes begins another file before a frame when one has as many; 0 never does.
	// Further files have a number behind the name. Files is how many there are at most: the
	// oldest is then overwritten, and all names have a number; 0 is no limit.
	MaxBytes int64
	Files    int
}

// An Output stores a pcapng section as it comes, in whole blocks, in one file or several. Each of
// them is complete up to the last frame at any moment, even when the disk is full.
type Output struct {
	cfg OutputConfig

	in      []byte // what was read and is not stored: at most a block that is not whole yet
	head    []byte // the blocks before the first frame, which every file begins with
	stats   []byte // the last statistics
	packets uint64
	began   bool

	file   *os.File // nil for Stdout
	number int
	size   int64
	older  bool  // file has what it had before
	err    error // of an earlier Write
}

// NewOutput makes the first file. What an older one of its name has stays until there is something
// to store: a capture may be refused.
func NewOutput(cfg OutputConfig) (*Output, error) {
	o := &Output{cfg: cfg}
	if cfg.Name == "-" {
		return o, nil
	}
	return o, o.open()
}

// name returns the name of the file that is due, as tcpdump would have it.
func (o *Output) name() string {
	switch {
	case o.cfg.Files > 0:
		digits := len(strconv.Itoa(o.cfg.Files - 1))
		return fmt.Sprintf("%s%0*d", o.cfg.Name, digits, o.number%o.cfg.Files)
	case o.number > 0:
		return o.cfg.Name + strconv.Itoa(o.number)
	}
	return o.cfg.Name
}

func (o *Output) open() error {
	f, err := os.OpenFile(o.name(), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	o.file, o.size, o.older = f, 0, true
	return nil
}

// Packets returns how many frames were stored.
func (o *Output) Packets() uint64 { return o.packets }

// Counts returns what the section says was seen, and whether it says so.
func (o *Output) Counts() (Counts, bool) {
	var c Counts
	for b := o.stats; len(b) >= blockLeast; b = b[binary.LittleEndian.Uint32(b[4:]):] {
		for opt := b[20 : min(len(b), int(binary.LittleEndian.Uint32(b[4:])))-4]; len(opt) >= 12; {
			code, n := binary.LittleEndian.Uint16(opt), int(binary.LittleEndian.Uint16(opt[2:]))
			if n == 8 {
				switch v := binary.LittleEndian.Uint64(opt[4:]); code {
				case 4: // isb_ifrecv
					c.Matched += v
				case 5: // isb_ifdrop
					c.Dropped += v
				}
			}
			opt = opt[min(len(opt), 4+(n+3)&^3):]
		}
	}
	return c, len(o.stats) > 0
}

var errBlock = errors.New("capture: not a pcapng section")

// Write stores the blocks that are complete with b.
func (o *Output) Write(b []byte) (int, error) {
	if o.err == nil {
		o.in = append(o.in, b...)
		o.store()
	}
	if o.err != nil {
		return 0, o.err
	}
	return len(b), nil
}

// readStep is how many bytes ReadFrom asks for at once.
const readStep = 1 << 20

// ReadFrom stores what comes from r until it ends, block by block as it comes. The error is that of
// r, or wraps that of the file; n counts bytes read.
func (o *Output) ReadFrom(r io.Reader) (n int64, err error) {
	if cap(o.in) < readStep+blockMost {
		o.in = append(make([]byte, 0, readStep+blockMost), o.in...)
	}
	for o.err == nil {
		k, err := r.Read(o.in[len(o.in) : len(o.in)+readStep])
		n += int64(k)
		o.in = o.in[:len(o.in)+k]
		o.store()
		if o.err == nil && err == io.EOF {
			return n, nil
		}
		if o.err == nil && err != nil {
			return n, err
		}
	}
	return n, &OutputError{o.err}
}

// An OutputError is an error of the file, not of what is read.
type OutputError struct{ err error }

func (e *OutputError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.err }

// store stores the whole blocks at the beginning of o.in.
func (o *Output) store() {
	from, at, packets := 0, 0, uint64(0)
	for o.err == nil && len(o.in)-at >= blockLeast {
		n := int(binary.LittleEndian.Uint32(o.in[at+4:]))
		typ := binary.LittleEndian.Uint32(o.in[at:])
		if n < blockLeast || n > blockMost || n%4 != 0 || !o.began && typ != blockSection {
			o.err = errBlock
			break
		}
		if len(o.in)-at < n {
			break
		}
		o.began = true
		switch block := o.in[at : at+n]; typ {
		case blockSection:
			o.head = append(o.head[:0], block...)
		case blockInterface:
			o.head = append(o.head, block...)
		case blockStatistics:
			if n >= 24 {
				o.stats = append(o.stats, block...)
			}
		case blockPacket:
			if o.cfg.MaxBytes > 0 && o.file != nil && o.size+int64(at-from) >= o.cfg.MaxBytes {
				o.put(o.in[from:at], packets)
				from, packets = at, 0
				o.rotate()
			}
			packets++
		}
		at += n
	}
	if o.err == nil {
		o.put(o.in[from:at], packets)
	}
	o.in = o.in[:copy(o.in, o.in[at:])]
}

// rotate begins the next file.
func (o *Output) rotate() {
	if o.err == nil {
		o.err = o.file.Close()
	}
	if o.err != nil {
		return
	}
	o.number++
	o.file = nil
	if o.err = o.open(); o.err == nil {
		o.put(o.head, 0)
	}
}

// put writes whole blocks. What does not fit is taken back to the last whole block.
func (o *Output) put(b []byte, packets uint64) {
	if len(b) == 0 || o.err != nil {
		return
	}
	if o.file == nil {
		if _, o.err = o.cfg.Stdout.Write(b); o.err == nil {
			o.packets += packets
		}
		return
	}
	if o.older {
		if o.err = o.cut(0); o.err != nil {
			return
		}
		o.older = false
	}
	n, err := o.file.Write(b)
	if err == nil {
		o.size, o.packets = o.size+int64(n), o.packets+packets
		return
	}
	o.err = err
	for whole := 0; whole < n; {
		size := int(binary.LittleEndian.Uint32(b[whole+4:]))
		if whole+size > n {
			break
		}
		if binary.LittleEndian.Uint32(b[whole:]) == blockPacket {
			o.packets++
		}
		whole += size
		o.size += int64(size)
	}
	if err := o.cut(o.size); err != nil {
		o.err = errors.Join(o.err, err)
	}
}

// cut makes the file size bytes long. A pipe or a device cannot be cut.
func (o *Output) cut(size int64) error {
	if info, err := o.file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	return o.file.Truncate(size)
}

// Close closes the file. The error of a Write is not repeated.
func (o *Output) Close() error {
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}
