package trace

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// A Printer writes records as lines, one a step. A frame's first step is preceded by a line
// that says what the frame is; times are in µs since that step.
type Printer struct {
	w     *bufio.Writer
	first map[string]int64 // time of a frame's first step, by what the lines begin with
	names []string         // of first, oldest first
}

// maxPrinted is how many frames a Printer has the beginnings of.
const maxPrinted = 4096

// NewPrinter returns a Printer.
func NewPrinter(w io.Writer) *Printer {
	return &Printer{w: bufio.NewWriter(w), first: make(map[string]int64)}
}

// Print writes one record.
func (p *Printer) Print(r *Record) error {
	name := ""
	switch {
	case r.Frame != 0:
		name = fmt.Sprintf("#%d", r.Frame)
	case r.Packet != 0:
		name = fmt.Sprintf("k%d", r.Packet)
	}
	if r.Lost > 0 {
		fmt.Fprintf(p.w, "%d steps were lost here: they came faster than they were read\n", r.Lost)
		if r.Step == "lost" {
			return p.w.Flush()
		}
	}
	if r.Step == "device" {
		fmt.Fprintf(p.w, "%-6s %9s  %-6s %-22s %s\n", "", "", r.Side, r.Step, plain(r.Text))
		return p.w.Flush()
	}
	if name == "" {
		fmt.Fprintf(p.w, "%-6s %9s  %-6s %-22s %s, %d bytes: %s\n", "", "", r.Side, r.Step, plain(r.Socket), r.Len, plain(r.Text))
		return p.w.Flush()
	}
	began, known := p.first[name]
	if !known {
		began = r.Time
		p.begin(name, began)
		way := r.Dir
		switch {
		case way != "":
		case r.Summary == "":
			way = "a packet of which the kernel does not show what it is"
		default:
			way = "seen by the kernel"
		}
		fmt.Fprintln(p.w, strings.TrimRight(fmt.Sprintf("%-6s %s  %s", name, way, plain(r.Summary)), " "))
	}
	where := r.Dev
	if r.Step == "end" || r.Step == "network" || r.Step == "socket" {
		where = ""
	}
	line := fmt.Sprintf("%-6s %9.1f  %-6s %-22s %-10s", name, float64(r.Time-began)/1e3, r.Side, r.Step, plain(where))
	if r.Src != "" {
		line += " " + r.Src + " -> " + r.Dst
	}
	if r.Socket != "" && r.Step != "end" {
		line += " " + plain(r.Socket)
		if r.Owner != "" {
			line += " (" + plain(r.Owner) + ")"
		}
		line += ":"
	}
	line += " " + plain(r.Text)
	p.w.WriteString(strings.TrimRight(line, " ") + "\n")
	return p.w.Flush()
}

func (p *Printer) begin(name string, at int64) {
	if len(p.names) >= maxPrinted {
		delete(p.first, p.names[0])
		p.names = p.names[1:]
	}
	p.first[name] = at
	p.names = append(p.names, name)
}

// plain replaces control characters: names of processes are their own choice.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// WriteJSON writes one record as one line of JSON.
func WriteJSON(w io.Writer, r *Record) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(r)
}
