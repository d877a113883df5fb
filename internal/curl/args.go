package curl

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// A target is one URL with where its data come from and go to.
type target struct {
	url    string
	hasURL bool

	out    string // file, "-" is standard output
	hasOut bool
	remote bool // -O: named by the URL

	upload    string // -T
	hasUpload bool
}

// fromStdin tells an upload of standard input, which can be read once only.
func (t *target) fromStdin() bool {
	return t.hasUpload && (t.upload == "-" || t.upload == ".")
}

// config is what the command line asks for.
type config struct {
	targets []target

	help, version                     bool
	include, head, verbose, location  bool
	silent, showError                 bool
	fail, failWithBody, failEarly     bool
	get, insecure, compressed         bool
	noMeter, bar                      bool
	createDirs, remoteTime, removeErr bool
	locationTrusted, autoReferer      bool
	keep301, keep302, keep303         bool
	retryConnrefused, retryAll        bool
	pathAsIs                          bool

	method                   string
	data                     []segment // joined by &
	hasData, json            bool
	form                     []formPart
	headers                  []string
	userAgent                *string
	referer, user, bearer    string
	cookies                  []string
	cacert, cert, key        string
	tlsMin, tlsMax           uint16
	writeOut                 string
	resolve                  []resolveEntry
	connectTo                []connectTo
	maxTime, connectTimeout  time.Duration
	family                   int // 4, 6 or 0
	http                     httpVersion
	maxRedirs                int // -1: no limit
	retry                    int
	retryDelay, retryMaxTime time.Duration
	byteRange                string
	resume                   bool  // -C
	resumeAt                 int64 // -1: where the output file ends
	limitRate                int64 // bytes a second
	speedLimit               int64 // bytes a second
	speedTime                time.Duration
	outputDir, dumpHeader    string
	socket                   string

	stdin io.Reader
}

type httpVersion int

const (
	httpAny httpVersion = iota
	http1
	http2
	http2Prior
)

// An option is a row of curl's command line.
type option struct {
	short byte   // 0: none
	long  string // without the dashes
	arg   string // what help calls its value; empty for a switch
	help  string // empty: accepted, without effect, not listed
	set   func(c *config, v string, on bool) error
}

// curl's own flags that are refused, and why.
func refused() map[string]string {
	const around = "nothing may go around the stack"
	return map[string]string{
		"proxy": around, "-x": around, "unix-socket": around, "abstract-unix-socket": around,
		"interface": around, "socks5": around, "socks5-hostname": around, "socks4": around, "socks4a": around,
		"preproxy": around, "doh-url": around, "dns-servers": around,
	}
}

// parseArgs reads the command line. Files that are named by -d, -F, -H and -w are
// read here.
func parseArgs(args []string, stdin io.Reader) (*config, error) {
	c := &config{maxRedirs: 50, stdin: stdin}
	opts := options()
	short := map[byte]*option{}
	long := map[string]*option{}
	for i := range opts {
		o := &opts[i]
		if o.short != 0 {
			short[o.short] = o
		}
		if o.long != "" {
			long[o.long] = o
		}
	}
	var words []string
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		var err error
		switch {
		case a == "--":
			words = append(words, args...)
			for _, w := range args {
				c.addURL(w)
			}
			args = nil
		case strings.HasPrefix(a, "--"):
			args, err = c.parseLong(long, a[2:], args)
		case len(a) > 1 && a[0] == '-':
			args, err = c.parseShort(short, a[1:], args)
		default:
			words = append(words, a)
			c.addURL(a)
		}
		if err != nil {
			return nil, err
		}
		if c.help || c.version {
			return c, nil
		}
	}
	if len(words) == 2 && len(c.targets) >= 2 && isDigits(words[1]) {
		if err := c.portArgument(words[0], words[1]); err != nil {
			return nil, err
		}
	}
	return c, c.check()
}

func (c *config) parseLong(table map[string]*option, name string, rest []string) ([]string, error) {
	name, value, hasValue := strings.Cut(name, "=")
	on := true
	o := table[name]
	if o == nil && strings.HasPrefix(name, "no-") {
		if p := table[name[3:]]; p != nil && p.arg == "" {
			o, on = p, false
		}
	}
	if o == nil {
		if why, ok := refused()[name]; ok {
			return nil, fail(exitUsage, "option --%s: is not supported, as %s", name, why)
		}
		return nil, fail(exitUsage, "option --%s: is unknown", name)
	}
	switch {
	case o.arg == "" && hasValue:
		return nil, fail(exitUsage, "option --%s: takes no value", name)
	case o.arg != "" && !hasValue:
		if len(rest) == 0 {
			return nil, fail(exitUsage, "option --%s: requires parameter", name)
		}
		value, rest = rest[0], rest[1:]
	}
	return rest, named("--"+name, o.set(c, value, on))
}

func (c *config) parseShort(table map[byte]*option, letters string, rest []string) ([]string, error) {
	for i := 0; i < len(letters); i++ {
		o := table[letters[i]]
		name := "-" + letters[i:i+1]
		if o == nil {
			if why, ok := refused()[name]; ok {
				return nil, fail(exitUsage, "option %s: is not supported, as %s", name, why)
			}
			return nil, fail(exitUsage, "option %s: is unknown", name)
		}
		if o.arg == "" {
			if err := named(name, o.set(c, "", true)); err != nil {
				return nil, err
			}
			continue
		}
		value := letters[i+1:]
		if value == "" {
			if len(rest) == 0 {
				return nil, fail(exitUsage, "option %s: requires parameter", name)
			}
			value, rest = rest[0], rest[1:]
		}
		return rest, named(name, o.set(c, value, true))
	}
	return rest, nil
}

// named puts the option in front of what is wrong with its value.
func named(name string, err error) error {
	if err == nil {
		return nil
	}
	code := exitUsage
	if e, ok := err.(*exitError); ok {
		code = e.code
	}
	return fail(code, "option %s: %v", name, err)
}

// slot returns the first target that lacks what has looks for, or a new one.
func (c *config) slot(has func(*target) bool) *target {
	for i := range c.targets {
		if !has(&c.targets[i]) {
			return &c.targets[i]
		}
	}
	c.targets = append(c.targets, target{})
	return &c.targets[len(c.targets)-1]
}

func (c *config) addURL(u string) {
	t := c.slot(func(t *target) bool { return t.hasURL })
	t.url, t.hasURL = u, true
}

// portArgument makes HOST PORT one target.
func (c *config) portArgument(host, port string) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fail(exitURL, "URL rejected: Port number was not a decimal number between 1 and 65535: %q", port)
	}
	for i := range c.targets {
		t := &c.targets[i]
		if t.url == port {
			t.url, t.hasURL = "", false
			if !t.hasOut && !t.remote && !t.hasUpload {
				c.targets = append(c.targets[:i], c.targets[i+1:]...)
			}
			break
		}
	}
	for i := range c.targets {
		t := &c.targets[i]
		if t.hasURL && t.url == host {
			u, err := parseURL(host)
			if err != nil {
				return err
			}
			if u.Port() != "" {
				return fail(exitUsage, "the port is given twice: by %q and by %q", host, port)
			}
			u.Host += ":" + port
			t.url = u.String()
		}
	}
	return nil
}

// check rejects what cannot be asked for together.
func (c *config) check() error {
	urls := 0
	uploads := false
	for i := range c.targets {
		if c.targets[i].hasURL {
			urls++
		}
		uploads = uploads || c.targets[i].hasUpload
	}
	if urls == 0 {
		return fail(exitUsage, "no URL specified")
	}
	kinds := 0
	for _, b := range []bool{c.hasData && !c.get, len(c.form) > 0, uploads, c.head} {
		if b {
			kinds++
		}
	}
	if kinds > 1 {
		return fail(exitUsage, "only one HTTP request method can be selected: of -d, -F, -T and -I, give one")
	}
	if c.resume && uploads {
		return fail(exitUsage, "resuming an upload is not supported: -C goes with downloads")
	}
	if c.resume && c.byteRange != "" {
		return fail(exitUsage, "--continue-at and --range exclude each other")
	}
	if c.fail && c.failWithBody {
		return fail(exitUsage, "--fail and --fail-with-body exclude each other")
	}
	if (c.cert == "") != (c.key == "") && c.cert == "" {
		return fail(exitUsage, "--key needs --cert")
	}
	return nil
}

func isDigits(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return s != ""
}

// seconds reads a time as curl writes it: a decimal number of seconds.
func seconds(v string) (time.Duration, error) {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || !(f >= 0 && f <= 1e9) {
		return 0, fmt.Errorf("expected a proper numerical parameter, not %q", v)
	}
	return time.Duration(f * float64(time.Second)), nil
}

func number(v string, lo int) (int, error) {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || int(n) < lo {
		return 0, fmt.Errorf("expected a proper numerical parameter, not %q", v)
	}
	return int(n), nil
}

// byteCount reads a number of bytes with curl's suffixes k, m, g, t (of 1024).
func byteCount(v string) (int64, error) {
	digits, shift := v, 0
	if v != "" {
		if i := strings.IndexByte("bkmgt", v[len(v)-1]|0x20); i >= 0 {
			digits, shift = v[:len(v)-1], 10*i
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("expected a number of bytes such as 500k or 2M, not %q", v)
	}
	return n << shift, nil
}
