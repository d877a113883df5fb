// Bench measures ustack beside the kernel's own TCP/IP and other user-space stacks,
// in one run: in namespaces that it makes, every subject takes its turn in every round.
//
//	usage: go run ./bench [-only REGEXP] [-with REGEXP] [-rounds N] [-time TIME] [-quick]
//	       [-out DIR] [-profile DIR] [-list]
//
// It prints one table with ratios and writes it as RESULTS.md, with the chart
// results.svg, into -out; a whole run writes into bench/. It needs root, and for pasta
// and slirp4netns what `make peers` fetches. Nothing is left on the machine.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/bench/report"
	"github.com/ustack/ustack/internal/netns"
)

// roleArg is the first argument of the processes that the runner starts.
const roleArg = "role"

// longest bounds a run, whatever happens.
const longest = 20 * time.Minute

func main() {
	if len(os.Args) > 1 && os.Args[1] == roleArg {
		os.Exit(runRole(os.Args[2:], os.Stdin, os.Stdout))
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	only   *regexp.Regexp
	with   *regexp.Regexp
	rounds int
	time   time.Duration
	quick  bool
	out    string
	prof   string
	list   bool
}

func parse(args []string) (o options, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := fs.String("only", "", "do only rows whose name matches `REGEXP`; write no files unless -out is given")
	with := fs.String("with", "", "let only subjects take part whose name matches `REGEXP`, and veth; write no files unless -out is given")
	fs.IntVar(&o.rounds, "rounds", 0, "`N` rounds of every row, instead of each row's own number")
	fs.DurationVar(&o.time, "time", 0, "`TIME` of one measurement, instead of 500ms")
	fs.BoolVar(&o.quick, "quick", false, "few and short rounds, to see that it works; write no files unless -out is given")
	fs.StringVar(&o.out, "out", "", "`DIR` for RESULTS.md and results.svg")
	fs.StringVar(&o.prof, "profile", "", "`DIR` for processor and allocation profiles of the servers' processes, in which in-process stacks run")
	fs.BoolVar(&o.list, "list", false, "name the rows and end")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q: takes only flags", fs.Arg(0))
	}
	if o.rounds < 0 || o.rounds > 1000 {
		return o, fmt.Errorf("-rounds %d: use 1 to 1000", o.rounds)
	}
	if o.time < 0 || o.time > maxTime/2 {
		return o, fmt.Errorf("-time %v: use at most %v", o.time, maxTime/2)
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, err
	}
	o.with, err = regexp.Compile(*with)
	return o, err
}

func run() error {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	s := wholeRun
	if o.quick {
		s = quickRun
	}
	if o.time > 0 {
		s.time = o.time
	}
	todo := rows(s)
	if o.list {
		for _, w := range todo {
			if w.extra {
				w.id += " (only when -only is given)"
			}
			fmt.Println(w.id)
		}
		return nil
	}
	probe, err := netns.New("probe")
	if err != nil {
		return fmt.Errorf("%w: run it as root", err)
	}
	probe.Close()
	root, err := checkout()
	if err != nil {
		return err
	}
	if o.out == "" && !o.quick && o.only.String()+o.with.String() == "" {
		o.out = filepath.Join(root, "bench")
	}
	if o.prof != "" {
		if o.prof, err = filepath.Abs(o.prof); err != nil {
			return err
		}
		os.Setenv(profileEnv, o.prof)
	}
	raiseFileLimit()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("the run took more than %v", longest))
	defer cancel()

	dir, err := os.MkdirTemp("", "ustack-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // pasta drops its privilege
		return err
	}
	program := filepath.Join(dir, "ustack")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "./cmd/ustack")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build ./cmd/ustack: %w\n%s", err, out)
	}

	l := &lab{ustack: program, peers: filepath.Join(root, ".cache", "peers", "bin"), dir: dir}
	if slices.ContainsFunc(todo, func(w row) bool {
		return slices.Contains(w.subjects, vsockFrames) && o.only.MatchString(w.id) && o.with.MatchString(vsockFrames)
	}) {
		l.vsock = buildVsock(ctx, root, dir, os.Stderr)
	}
	r := newRunner(l, s, os.Stderr)
	defer r.close()
	began := time.Now()
	var all []report.Metric
	for _, w := range todo {
		if !o.only.MatchString(w.id) || w.extra && o.only.String() == "" {
			continue
		}
		w.subjects = slices.DeleteFunc(slices.Clone(w.subjects), func(s string) bool {
			return s != vethOn && s != kernelReno && s != kernelCubic && s != linuxBridge && !o.with.MatchString(s)
		})
		if o.rounds > 0 && w.rounds != 1 {
			w.rounds = o.rounds
		}
		metrics, err := r.row(ctx, w)
		if err != nil {
			return err
		}
		all = append(all, metrics...)
	}
	if len(all) == 0 {
		return fmt.Errorf("-only %s: no row has such a name; -list shows them", o.only)
	}
	all = append(all, derived(all)...)
	bounds, err := loadBounds()
	if err != nil {
		return err
	}
	rep := report.Report{
		Head: head(root, time.Since(began)), Base: vethOn, Others: []string{pasta, naiveTap},
		Metrics: all, Bounds: bounds, Notes: append(remarks(), r.notes...),
	}
	return write(rep, o.out)
}

// write prints the report and, where dir is given, writes the files.
func write(rep report.Report, dir string) error {
	if err := rep.Markdown(os.Stdout); err != nil || dir == "" {
		return err
	}
	var svg, md bytes.Buffer
	drawn, err := rep.SVG(&svg)
	if err != nil {
		return err
	}
	if drawn {
		rep.Chart = "results.svg"
		if err := os.WriteFile(filepath.Join(dir, rep.Chart), svg.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if err := rep.Markdown(&md); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "RESULTS.md"), md.Bytes(), 0o644)
}

// checkout finds the root of the checkout: the first folder with go.mod from the
// current one upwards.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("run it inside the checkout: no go.mod from the current folder upwards")
		}
		dir = up
	}
}

// raiseFileLimit lets the processes have 10,000 connections, if it may; else their
// rows say what is missing.
func raiseFileLimit() {
	const want = 1 << 16
	lim := unix.Rlimit{Cur: want, Max: want}
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &now) == nil && now.Max > want {
		lim = unix.Rlimit{Cur: now.Max, Max: now.Max}
	}
	unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
}
