package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A Report is what came of an examination.
type Report struct {
	Env      *Environment
	Outcomes []Outcome
	// Notes say what could not be looked at, and what else there is to know.
	Notes []string
}

// Findings returns all of them, causes before what they were looked for after. It is
// never nil.
func (r *Report) Findings() []Finding {
	all := []Finding{}
	for _, o := range r.Outcomes {
		all = append(all, o.Findings...)
	}
	return all
}

// Fixable reports whether Fix would do anything.
func (r *Report) Fixable() bool {
	for _, f := range r.Findings() {
		if len(f.Fix) > 0 {
			return true
		}
	}
	return false
}

// broken reports whether nothing gets through, whatever else.
func (r *Report) broken() bool {
	for _, o := range r.Outcomes {
		if o.State == StateFound && o.Check.Breaks {
			return true
		}
	}
	return false
}

// baffled reports whether no cause was found but that something does not answer.
func (r *Report) baffled() bool {
	for _, f := range r.Findings() {
		if !slices.Contains([]string{CauseUnanswered, CauseFirewall, CauseMasquerade, CauseUnknownBeyond, CauseDNS, CauseUnexplained}, f.Cause) {
			return false
		}
	}
	return true
}

// WriteJSON writes the findings as a list; [] is a healthy path.
func (r *Report) WriteJSON(w io.Writer) error {
	b, err := json.MarshalIndent(r.Findings(), "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// WriteText writes the report for people: a line for each check, and under each
// finding its evidence and its remedy.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", printable(r.Env.summary()))
	var reasons []string
	explained := make(map[string][]string)
	for _, o := range r.Outcomes {
		switch o.State {
		case StateOK:
			fmt.Fprintf(&b, "ok     %s\n", o.Check.About)
		case StateFound:
			for _, f := range o.Findings {
				f.writeText(&b)
			}
		case StateUnknown:
			fmt.Fprintf(&b, "-      %s: not known: %s\n", o.Check.Cause, printable(o.Note))
		case StateExplained:
			if explained[o.Note] == nil {
				reasons = append(reasons, o.Note)
			}
			explained[o.Note] = append(explained[o.Note], o.Check.Cause)
		}
	}
	for _, reason := range reasons {
		fmt.Fprintf(&b, "-      not looked for because of %s: %s\n", reason, strings.Join(explained[reason], ", "))
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "note   %s\n", printable(note))
	}
	switch n := len(r.Findings()); n {
	case 0:
		b.WriteString("healthy: no findings\n")
	case 1:
		b.WriteString("1 finding\n")
	default:
		fmt.Fprintf(&b, "%d findings\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (f *Finding) writeText(b *strings.Builder) {
	fmt.Fprintf(b, "FOUND  %s: %s\n", f.Cause, printable(f.Title))
	for _, e := range f.Evidence {
		fmt.Fprintf(b, "         seen: %s\n", printable(e))
	}
	for _, cmd := range f.Remedy {
		fmt.Fprintf(b, "         do:   %s\n", printable(cmd))
	}
}

// printable replaces control characters: names and frames come from strangers.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}
