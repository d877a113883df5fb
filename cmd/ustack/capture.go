package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ustack/ustack/capture"
	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/control"
)

// captureFlags are the flags of capture; the letters are tcpdump's.
type captureFlags struct {
	write, read string
	count       int
	link        string
	numeric     bool
	ether       bool
	snap        int
	unbuffered  bool
	megabytes   int
	files       int
	split       bool
	hex, ascii  int
	verbose     int
	times       int
	absolute    bool
	bufferKiB   int
	expr        string
	filter      *filter.Filter
}

func (f *captureFlags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVarP(&f.write, "write", "w", "", "store frames in `FILE` as pcapng instead of printing them; - is standard output")
	fs.StringVarP(&f.read, "read", "r", "", "read frames from `FILE`, pcapng or pcap, instead of the daemon; - is standard input")
	fs.IntVarP(&f.count, "count", "c", 0, "end after `N` frames")
	fs.StringVarP(&f.link, "interface", "i", "", "capture on `LINK` only, or port of the switch")
	fs.BoolVarP(&f.numeric, "numeric", "n", false, "print numbers instead of names of hosts and ports")
	fs.BoolVarP(&f.ether, "ether", "e", false, "print the Ethernet header, too")
	fs.IntVarP(&f.snap, "snaplen", "s", 0, "keep at most so many `BYTES` of a frame (default all)")
	fs.BoolVarP(&f.unbuffered, "packet-buffered", "U", false, "as in tcpdump: store each frame at once, which is always so")
	fs.IntVarP(&f.megabytes, "file-size", "C", 0, "with -w, begin another file after `MB` million bytes: FILE, FILE1, FILE2 …")
	fs.IntVarP(&f.files, "file-count", "W", 0, "with -C, write at most `N` files, then the first again: FILE0, FILE1 …")
	fs.BoolVar(&f.split, "split", false, "cut super-frames into the segments that they stand for, with all checksums")
	fs.IntVarP(&f.bufferKiB, "buffer-size", "B", 0, "`KIB` of frames that may wait to be read, before records are lost (default 32768)")
	fs.CountVarP(&f.hex, "hex", "x", "print frames in hexadecimal, too; twice: with their Ethernet header")
	fs.CountVarP(&f.ascii, "ascii", "X", "the same with ASCII")
	fs.CountVarP(&f.verbose, "verbose", "v", "print more: fields of the IP header, checksums, direction and link")
	fs.CountVarP(&f.times, "time", "t", "print no time; -tt: seconds since 1970, -ttt: since the last frame, -tttt: with the date, -ttttt: since the first")
	fs.BoolVarP(&f.absolute, "absolute", "S", false, "print absolute TCP sequence numbers")
}

func (a *app) captureCommand() *cobra.Command {
	f := &captureFlags{}
	cmd := &cobra.Command{
		Use:   "capture [flags] [FILTER]",
		Short: "show or store the frames that cross the stack's links",
		Long: `Shows the frames that cross the stack's links, one line each as tcpdump would, or stores
them as pcapng with -w, until SIGINT, SIGTERM or -c. Frames that the link or the stack's
filter of addresses drops are there, too, with the counter: [dropped: tx_down].
Super-frames are what they are, not what the wire would have made of them; --split does that.
A capture never holds up traffic: what its reader is too slow for is lost from it, and
counted at the end.

FILTER is an expression as tcpdump takes it (pcap-filter(7)), about Ethernet:
  host A, net A/LEN, port P, portrange P-Q, after src or dst and ip, ip6, arp, tcp, udp
  ip, ip6, arp, tcp, udp, icmp, icmp6, …; proto N, ip proto N, ether proto N
  ether host MAC, broadcast, multicast, vlan [ID], less N, greater N
  tcp[13] & 2 != 0, tcp[tcpflags] & (tcp-syn|tcp-rst) != 0, icmp[icmptype] = icmp-echo, len > 100
  in, out (received and sent by the stack), dropped
joined by and, or, not and parentheses. Names of hosts are asked from the stack's servers.`,
		Example: `  ustack capture -n port 80
  ustack capture -n dropped
  ustack capture -w frames.pcapng -C 100 -W 10
  ustack capture -w - | wireshark -k -i -
  ustack capture -r frames.pcapng -X host 10.0.0.5 and not arp`,
		Args: cobra.ArbitraryArgs,
	}
	f.register(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.expr = strings.Join(args, " ")
		if err := f.check(); err != nil {
			return err
		}
		// Whoever reads the output may have enough: that is no error, and there is the end
		// of the capture to come.
		signal.Ignore(syscall.SIGPIPE)
		ctx, stop := untilInterrupted(cmd.Context())
		defer stop()
		err := a.capture(ctx, f)
		if errors.Is(err, syscall.EPIPE) {
			return nil
		}
		return err
	}
	return cmd
}

// check refuses what is wrong usage.
func (f *captureFlags) check() error {
	switch {
	case f.count < 0:
		return usagef("-c %d: not a number of frames", f.count)
	case f.snap < 0:
		return usagef("-s %d: not a number of bytes", f.snap)
	case f.megabytes < 0 || f.megabytes > 1<<20:
		return usagef("-C %d: not a size: use 1 to %d million bytes", f.megabytes, 1<<20)
	case f.files < 0 || f.files > 1e6:
		return usagef("-W %d: not a number of files: use 1 to 1000000", f.files)
	case f.megabytes > 0 && (f.write == "" || f.write == "-"):
		return usagef("-C needs a file to store frames in: add -w FILE")
	case f.files > 0 && f.megabytes == 0:
		return usagef("-W needs a size of files: add -C MB")
	case f.read != "" && f.link != "":
		return usagef("-i is for a capture of a daemon's frames, not for those of a file")
	case f.write != "" && f.hex+f.ascii > 0:
		return usagef("-x and -X print frames, -w stores them: use one of the two")
	case f.bufferKiB < 0 || f.bufferKiB > capture.MaxBuffer>>10 || f.bufferKiB > 0 && f.bufferKiB < capture.MinBuffer>>10+1:
		return usagef("-B %d: out of range: use %d to %d KiB", f.bufferKiB, capture.MinBuffer>>10+1, capture.MaxBuffer>>10)
	}
	f.snap = min(f.snap, maxSnap)
	lookup := func(string) ([]netip.Addr, error) {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
	}
	if f.read != "" {
		lookup = func(name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(context.Background(), "ip", name)
		}
	}
	p, err := filter.ParseNames(f.expr, lookup)
	if err != nil {
		return &usageError{err}
	}
	f.filter = p
	return nil
}

// maxSnap is the longest frame there is; tcpdump's users ask for more.
const maxSnap = 65589

func (a *app) capture(ctx context.Context, f *captureFlags) error {
	switch {
	case f.read != "":
		return a.replay(ctx, f)
	case f.write != "":
		return a.store(ctx, f)
	}
	return a.watch(ctx, f)
}

// output opens what -w names.
func (a *app) output(f *captureFlags) (*capture.Output, error) {
	out, err := capture.NewOutput(capture.OutputConfig{
		Name: f.write, Stdout: a.Stdout, MaxBytes: int64(f.megabytes) * 1e6, Files: f.files,
	})
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	return out, nil
}

// untilInterrupted ends with SIGINT, too, also where that is ignored, as it is for what a script
// has in the background: scripts end tcpdump so.
func untilInterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	return signalled(ctx, os.Interrupt)
}

// ask begins a capture of the daemon's frames. What stops ctx asks for its end.
func (a *app) ask(ctx context.Context, f *captureFlags) (*control.Stream, error) {
	s, err := a.client().Capture(ctx, control.CaptureOptions{
		Filter: f.expr, Link: f.link, SnapLen: f.snap, Count: uint64(f.count), Split: f.split, Buffer: f.bufferKiB << 10,
	})
	if err != nil && ctx.Err() != nil {
		return nil, errors.New("capture: interrupted before it began")
	}
	if err != nil {
		return nil, err
	}
	where := f.link
	if where == "" {
		where = "all links"
	}
	fmt.Fprintf(a.Stderr, "ustack: capturing on %s\n", printable(where))
	return s, nil
}

// store copies a capture to a file.
func (a *app) store(ctx context.Context, f *captureFlags) (err error) {
	out, err := a.output(f)
	if err != nil {
		return err
	}
	defer func() {
		if end := out.Close(); err == nil && end != nil {
			err = fmt.Errorf("capture: %w", end)
		}
	}()
	s, err := a.ask(ctx, f)
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Stop() })()
	_, cut := out.ReadFrom(s)
	var full *capture.OutputError
	if errors.As(cut, &full) {
		return fmt.Errorf("capture: after %d frames, which are whole: %w", out.Packets(), cut)
	}
	counts, ended := out.Counts()
	a.summary(out.Packets(), counts, ended)
	if !ended {
		return daemonEnded(cut)
	}
	return nil
}

// daemonEnded is the error of a capture whose daemon has gone without a word.
func daemonEnded(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("capture: the daemon has ended")
	}
	return fmt.Errorf("capture: %w", err)
}

// summary says what was captured, on standard error, as tcpdump does.
func (a *app) summary(packets uint64, c capture.Counts, known bool) {
	fmt.Fprintf(a.Stderr, "%d %s captured\n", packets, plural(packets))
	if known {
		fmt.Fprintf(a.Stderr, "%d %s dropped by capture\n", c.Dropped, plural(c.Dropped))
	}
}

func plural(n uint64) string {
	if n == 1 {
		return "packet"
	}
	return "packets"
}

// replay reads a file, to print it or to store what the filter selects.
func (a *app) replay(ctx context.Context, f *captureFlags) (err error) {
	in := a.Stdin
	if f.read != "-" {
		file, err := os.Open(f.read)
		if err != nil {
			return fmt.Errorf("capture: %w", err)
		}
		defer file.Close()
		if same(file, f.write) {
			return fmt.Errorf("capture: -w %s is the file that is read: use another name", printable(f.write))
		}
		in = file
	}
	r, err := capture.NewReader(in)
	if err != nil {
		return fmt.Errorf("capture: read %s: %w", printable(f.read), err)
	}
	if f.write != "" {
		return a.rewrite(ctx, f, r)
	}
	p := a.newPrinter(f)
	defer p.close()
	return a.each(ctx, f, r, p.print)
}

// same says whether name is a file's.
func same(file *os.File, name string) bool {
	a, err := file.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(name)
	return err == nil && a.Mode().IsRegular() && os.SameFile(a, b)
}

// each calls do with the records that the filter selects.
func (a *app) each(ctx context.Context, f *captureFlags, r *capture.Reader, do func(r *capture.Reader, rec *capture.Record) error) error {
	for n := 0; ctx.Err() == nil && (f.count == 0 || n < f.count); {
		rec, err := r.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("capture: read %s: %w", printable(f.read), err)
		}
		if !f.filter.Match(filter.Meta{In: rec.In, NoWay: rec.NoWay, Dropped: rec.Drop != "", WireLen: rec.Len}, rec.Data) {
			continue
		}
		n++
		if err := do(r, rec); err != nil {
			return err
		}
	}
	return nil
}

// rewrite stores what the filter selects of a file.
func (a *app) rewrite(ctx context.Context, f *captureFlags, r *capture.Reader) (err error) {
	out, err := a.output(f)
	if err != nil {
		return err
	}
	defer func() {
		if end := out.Close(); err == nil && end != nil {
			err = fmt.Errorf("capture: %w", end)
		}
	}()
	var w *capture.Writer
	begin := func() (err error) {
		sec := capture.Section{Application: "ustack " + versionText(), Filter: f.expr, SnapLen: f.snap, Split: f.split}
		for i := range max(r.Interfaces(), 1) {
			sec.Interfaces = append(sec.Interfaces, r.Interface(i))
		}
		w, err = capture.NewWriter(out, sec)
		return err
	}
	err = a.each(ctx, f, r, func(r *capture.Reader, rec *capture.Record) error {
		// A file may tell of a link at any place before its first frame.
		if w == nil || rec.Link >= w.Interfaces() {
			if w != nil {
				if err := w.Flush(); err != nil {
					return err
				}
			}
			if err := begin(); err != nil {
				return err
			}
		}
		return w.Write(rec)
	})
	if w == nil && err == nil {
		err = begin()
	}
	if w != nil {
		err = errors.Join(err, w.Flush())
	}
	a.summary(out.Packets(), capture.Counts{}, false)
	return err
}

// watch prints a capture of the daemon's frames.
func (a *app) watch(ctx context.Context, f *captureFlags) error {
	s, err := a.ask(ctx, f)
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { s.Stop() })()
	r, err := capture.NewReader(s)
	if err != nil {
		return daemonEnded(nil)
	}
	p := a.newPrinter(f)
	defer p.close()
	n := uint64(0)
	for {
		rec, err := r.Read()
		if err != nil {
			if flush := p.flush(); flush != nil {
				return flush
			}
			counts, ended := r.Counts()
			a.summary(n, counts, ended)
			if !ended {
				return daemonEnded(err)
			}
			return nil
		}
		n++
		if err := p.print(r, rec); err != nil {
			return err
		}
		if r.Waiting() {
			if err := p.flush(); err != nil {
				return err
			}
		}
	}
}
