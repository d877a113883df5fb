package kernel

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"sort"
)

// symbols are the kernel's functions, sorted by address. A nil one knows none.
type symbols struct {
	all  []symbol
	text []byte // the names
}

type symbol struct {
	addr     uint64
	from, to uint32 // of the name in text
}

// loadSymbols reads /proc/kallsyms. Where that is refused or its addresses are hidden
// places have no names, which the log says once.
func loadSymbols(log *slog.Logger) *symbols {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		log.Info("functions of the kernel have no names", "why", err)
		return nil
	}
	defer f.Close()
	s, err := parseSymbols(f)
	if s == nil {
		if err == nil {
			err = errors.New("kernel.kptr_restrict hides them from /proc/kallsyms")
		}
		log.Info("functions of the kernel have no names", "why", err)
	}
	return s
}

// parseSymbols reads lines of "address type name [module]"; nil if none has an
// address.
func parseSymbols(r io.Reader) (*symbols, error) {
	s := new(symbols)
	scan := bufio.NewScanner(r)
	for scan.Scan() {
		addr, rest, _ := bytes.Cut(scan.Bytes(), []byte(" "))
		typ, rest, _ := bytes.Cut(rest, []byte(" "))
		name, _, _ := bytes.Cut(rest, []byte("\t"))
		a, ok := hex(addr)
		if !ok || a == 0 || len(name) == 0 || len(typ) != 1 || bytes.IndexByte([]byte("tTwW"), typ[0]) < 0 {
			continue
		}
		from := len(s.text)
		s.text = append(s.text, name...)
		s.all = append(s.all, symbol{a, uint32(from), uint32(len(s.text))})
	}
	if err := scan.Err(); err != nil || len(s.all) == 0 {
		return nil, err
	}
	slices.SortStableFunc(s.all, func(a, b symbol) int { return cmp.Compare(a.addr, b.addr) })
	return s, nil
}

// hex reads up to 16 digits; strconv would want a string of each line.
func hex(b []byte) (v uint64, ok bool) {
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		v = v<<4 | uint64(c)
	}
	return v, len(b) > 0 && len(b) <= 16
}

// base returns a name without what compilers append to parts of a function.
func (s *symbols) base(i int) []byte {
	name, _, _ := bytes.Cut(s.text[s.all[i].from:s.all[i].to], []byte("."))
	return name
}

// after returns the first symbol above an address.
func (s *symbols) after(addr uint64) int {
	return sort.Search(len(s.all), func(i int) bool { return s.all[i].addr > addr })
}

// name returns the function that an address lies in; "" if unknown.
func (s *symbols) name(addr uint64) string {
	if s == nil || addr == 0 {
		return ""
	}
	if i := s.after(addr) - 1; i >= 0 {
		return string(s.base(i))
	}
	return ""
}

// spans returns the addresses of functions by their names, parts of them included.
func (s *symbols) spans(names ...string) []span {
	if s == nil {
		return nil
	}
	var found []span
	for i, sym := range s.all {
		if name := s.base(i); !slices.ContainsFunc(names, func(n string) bool { return n == string(name) }) {
			continue
		}
		// Up to the next higher address: several symbols may share one.
		if next := s.after(sym.addr); next < len(s.all) {
			found = append(found, span{sym.addr, s.all[next].addr})
		}
	}
	return found
}
