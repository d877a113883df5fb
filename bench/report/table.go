package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Report is a whole run.
type Report struct {
	// Head is the Markdown before the table: the machine, how to repeat it.
	Head string
	// Base and Others are the subjects that the table compares with.
	Base   string
	Others []string
	// Chart is the name of the SVG file that the Markdown shows; "" for none.
	Chart   string
	Metrics []Metric
	// Bounds explain goals that were not reached.
	Bounds []Bound
	Notes  []string
}

// Number writes three digits, without an exponent.
func Number(v float64) string {
	switch a := max(v, -v); {
	case a >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', 2, 64) + " M"
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1 || a == 0:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// Text writes "median (min–max)", or "–" without any value.
func (s Summary) Text() string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", Number(s.Median), Number(s.Min), Number(s.Max))
}

// Markdown writes the report.
func (r Report) Markdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(r.Head)
	if r.Chart != "" {
		fmt.Fprintf(&b, "\n![Ratios to %s](%s)\n", r.Base, r.Chart)
	}
	r.table(&b)
	r.goals(&b)
	r.bounds(&b)
	if len(r.Notes) > 0 {
		b.WriteString("\n## Notes\n\n")
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "- %s\n", n)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Report) table(b *strings.Builder) {
	b.WriteString("\n## Table\n\nMedian (least–most) over the rounds. Ratios are of the two subjects' values in the same round.\n\n")
	cols := append([]string{r.Base}, r.Others...)
	b.WriteString("| | subject | value |")
	for _, c := range cols {
		fmt.Fprintf(b, " × %s |", c)
	}
	b.WriteString(" rounds |\n|---|---|---|" + strings.Repeat("---|", len(cols)+1) + "\n")
	for _, m := range r.Metrics {
		title := m.Title
		if m.Unit != "" {
			title += ", " + m.Unit
		}
		for _, s := range m.Series {
			sum := Summarise(s.Values)
			fmt.Fprintf(b, "| %s | %s | %s |", title, s.Subject, sum.Text())
			for _, c := range cols {
				cell, to := "", c
				if c == r.Base && m.Base != "" {
					to = m.Base
				}
				if v := m.Of(to); v != nil && to != s.Subject && !m.NoRatios {
					cell = Summarise(Ratios(s.Values, v)).Text()
					if to != c {
						cell += " × " + to
					}
				}
				fmt.Fprintf(b, " %s |", cell)
			}
			rounds := strconv.Itoa(sum.N)
			if sum.N < len(s.Values) {
				rounds = fmt.Sprintf("%d of %d", sum.N, len(s.Values))
			}
			fmt.Fprintf(b, " %s |\n", rounds)
			title = ""
		}
	}
}

func (r Report) goals(b *strings.Builder) {
	head := false
	for _, m := range r.Metrics {
		for _, g := range m.Goals {
			got, reached, ok := m.Reached(g)
			if !ok {
				continue
			}
			if !head {
				b.WriteString("\n## Aims\n\n| | subject | aim | here | |\n|---|---|---|---|---|\n")
				head = true
			}
			verdict := "**missed**"
			if reached {
				verdict = "reached"
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", m.Title, g.Subject, m.aim(g), got.Text(), verdict)
		}
	}
}
