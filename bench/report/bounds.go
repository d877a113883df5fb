package report

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// A Bound says why figures are not reached.
type Bound struct {
	Covers []Cover
	// Text is Markdown: what bounds them, and what would be needed.
	Text string
	// Profile names a file, beside the report in profiles/, that shows it.
	Profile string
}

// A Cover picks goals by patterns of path.Match.
type Cover struct {
	Metric  string // its ID
	Subject string
	Against string // what a Goal is against; "*" for any, "" for the value itself
	Line    int    // where it stands
}

// Picks reports whether a goal of a metric is meant.
func (c Cover) Picks(metric string, g Goal) bool {
	for _, p := range [][2]string{{c.Metric, metric}, {c.Subject, g.Subject}, {c.Against, g.Against}} {
		if ok, err := path.Match(p[0], p[1]); err != nil || !ok {
			return false
		}
	}
	return true
}

// ParseBounds reads Bounds as people write them:
//
//	# a comment
//	METRIC SUBJECT [AGAINST]
//	METRIC SUBJECT
//		Sentences, on as many indented
//		lines as it takes.
//		profile: FILE
//
// METRIC is the ID of a metric, SUBJECT and AGAINST are subjects, all with *, ? and
// [a-z]. An entry may begin with several such lines. Of two entries that pick a goal
// the first counts. Errors name the line.
func ParseBounds(text string) ([]Bound, error) {
	var all []Bound
	open := false // the last entry still takes lines of what it covers
	number := 0
	for raw := range strings.Lines(text) {
		number++
		line := strings.TrimSpace(raw)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if raw[0] != ' ' && raw[0] != '\t' {
			c, err := parseCover(line, number)
			if err != nil {
				return nil, err
			}
			if !open {
				if err := whole(all); err != nil {
					return nil, err
				}
				all, open = append(all, Bound{}), true
			}
			b := &all[len(all)-1]
			b.Covers = append(b.Covers, c)
			continue
		}
		open = false
		if len(all) == 0 {
			return nil, fmt.Errorf("line %d: %q stands under no METRIC SUBJECT line: begin that line without a blank", number, line)
		}
		b := &all[len(all)-1]
		if b.Profile != "" {
			return nil, fmt.Errorf("line %d: %q stands behind the profile: that is the last line of an entry", number, line)
		}
		if file, ok := strings.CutPrefix(line, "profile:"); ok {
			if b.Profile = strings.TrimSpace(file); b.Profile == "" || strings.ContainsAny(b.Profile, "/ ()") {
				return nil, fmt.Errorf("line %d: profile %q: use the name of one file in profiles/", number, b.Profile)
			}
			continue
		}
		b.Text = strings.TrimLeft(b.Text+" "+line, " ")
	}
	return all, whole(all)
}

func parseCover(line string, number int) (Cover, error) {
	f := strings.Fields(line)
	if len(f) != 2 && len(f) != 3 {
		return Cover{}, fmt.Errorf("line %d: %q has %d words: use METRIC SUBJECT, and AGAINST if need be; indent sentences", number, line, len(f))
	}
	for _, p := range f {
		if _, err := path.Match(p, ""); err != nil {
			return Cover{}, fmt.Errorf("line %d: pattern %q: %w", number, p, err)
		}
	}
	c := Cover{Metric: f[0], Subject: f[1], Against: "*", Line: number}
	if len(f) == 3 {
		c.Against = f[2]
	}
	return c, nil
}

// whole reports what the last entry lacks.
func whole(all []Bound) error {
	if len(all) == 0 {
		return nil
	}
	b := all[len(all)-1]
	switch line := b.Covers[0].Line; {
	case b.Text == "":
		return fmt.Errorf("line %d: the entry says nothing: add indented sentences", line)
	case b.Profile == "":
		return fmt.Errorf("line %d: the entry has no profile: end it with an indented \"profile: FILE\"", line)
	}
	return nil
}

// bounds lists what was missed, by what bounds it.
func (r Report) bounds(b *strings.Builder) {
	by := make([][]string, len(r.Bounds)+1) // the last has what no Bound picks
	missed := 0
	for _, m := range r.Metrics {
		for _, g := range m.Goals {
			got, reached, ok := m.Reached(g)
			if !ok || reached {
				continue
			}
			missed++
			at := r.boundOf(m.ID, g)
			what := fmt.Sprintf("**%s**, %s: %s, not %s", m.Title, g.Subject, Number(got.Median), m.aim(g))
			if at == len(r.Bounds) {
				what += fmt.Sprintf(" (`%s %s`)", m.ID, g.Subject)
			}
			by[at] = append(by[at], what)
		}
	}
	if missed == 0 {
		return
	}
	b.WriteString("\n## What bounds the figures missed\n")
	for i, bound := range r.Bounds {
		if len(by[i]) > 0 {
			fmt.Fprintf(b, "\n- %s\n\n  %s [Profile](profiles/%s)\n", strings.Join(by[i], "\n- "), bound.Text, bound.Profile)
		}
	}
	if unknown := by[len(r.Bounds)]; len(unknown) > 0 {
		fmt.Fprintf(b, "\nNot explained yet:\n\n- %s\n", strings.Join(unknown, "\n- "))
	}
}

// boundOf returns the index of the Bound that picks a goal, or how many there are.
func (r Report) boundOf(metric string, g Goal) int {
	for i, bound := range r.Bounds {
		for _, c := range bound.Covers {
			if c.Picks(metric, g) {
				return i
			}
		}
	}
	return len(r.Bounds)
}

// aim writes what a goal asks for.
func (m Metric) aim(g Goal) string {
	rel, unit := "≥", " "+m.Unit
	if m.LowIsGood {
		rel = "≤"
	}
	if g.Against != "" {
		unit = " × " + g.Against
	}
	return rel + " " + strconv.FormatFloat(g.Limit, 'g', 4, 64) + strings.TrimRight(unit, " ")
}
