package report

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// colours of the subjects, in their order; far apart also for the colour-blind.
var colours = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#000000"}

// Measures of the chart in pixels; a title above each group of bars.
const (
	chartWidth = 900
	labelWidth = 130
	barHeight  = 13
	titleLine  = 16
	barsRight  = 60 // room for the numbers beside the longest bar
	groupGap   = 12
)

// SVG draws, for each metric that is compared with Base, one bar for each other
// subject: the median of its ratio to Base, on a logarithmic scale, with a whisker
// from the least to the most. It writes nothing and returns false if nothing can be
// compared.
func (r Report) SVG(w io.Writer) (bool, error) {
	groups, subjects := r.bars()
	if len(groups) == 0 {
		return false, nil
	}
	lo, hi := 1.0, 1.0
	for _, g := range groups {
		for _, b := range g.bars {
			lo, hi = min(lo, b.ratio.Min), max(hi, b.ratio.Max)
		}
	}
	// Whole powers of ten would waste half of it: the nearest of 1, 2, 5.
	lo, hi = roundDown(lo), roundUp(hi)
	x := func(v float64) float64 {
		span := math.Log(hi) - math.Log(lo)
		return labelWidth + (math.Log(v)-math.Log(lo))/span*(chartWidth-labelWidth-barsRight)
	}
	colour := make(map[string]string)
	for i, s := range subjects {
		colour[s] = colours[i%len(colours)]
	}

	var body strings.Builder
	const top = 36.0
	y := top
	for _, g := range groups {
		fmt.Fprintf(&body, `<text x="10" y="%.1f" font-weight="bold">%s</text>`+"\n", y+titleLine-5, escape(g.title))
		y += titleLine
		for _, b := range g.bars {
			from, to := x(1), x(b.ratio.Median)
			fmt.Fprintf(&body, `<text x="%d" y="%.1f" text-anchor="end" font-size="11">%s</text>`+"\n",
				labelWidth-8, y+barHeight-3, escape(b.subject))
			fmt.Fprintf(&body, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`+"\n",
				min(from, to), y, max(math.Abs(to-from), 1), barHeight-2, colour[b.subject],
				escape(fmt.Sprintf("%s: %s × %s", b.subject, b.ratio.Text(), g.base)))
			fmt.Fprintf(&body, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#333"/>`+"\n",
				x(b.ratio.Min), x(b.ratio.Max), y+barHeight/2-1, y+barHeight/2-1)
			fmt.Fprintf(&body, `<text x="%.1f" y="%.1f" font-size="10">%s</text>`+"\n",
				max(from, x(b.ratio.Max))+4, y+barHeight-4, Number(b.ratio.Median))
			y += barHeight
		}
		y += groupGap
	}
	var axis strings.Builder
	for _, v := range ticks(lo, hi) {
		stroke := "#ddd"
		if v == 1 {
			stroke = "#333"
		}
		fmt.Fprintf(&axis, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x(v), x(v), top, y-groupGap+4, stroke)
		fmt.Fprintf(&axis, `<text x="%.1f" y="%.1f" text-anchor="middle" font-size="10">%g</text>`+"\n", x(v), y, v)
	}
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="#fff"/>
<text x="10" y="20" font-size="14">%s</text>
%s%s</svg>
`, chartWidth, y+12, escape("Ratio to "+r.Base+" (over impaired links, to the kernel there): median, least to most; ↑ more is better, ↓ less"), axis.String(), body.String())
	return true, err
}

type bar struct {
	subject string
	ratio   Summary
}

type group struct {
	title, base string
	bars        []bar
}

// bars collects what can be drawn, and the subjects in their order.
func (r Report) bars() (groups []group, subjects []string) {
	seen := make(map[string]bool)
	for _, m := range r.Metrics {
		name := cmp.Or(m.Base, r.Base)
		base := m.Of(name)
		if base == nil || m.NoRatios || m.NoChart {
			continue
		}
		g := group{title: m.Title, base: name}
		if m.LowIsGood {
			g.title += " ↓"
		} else {
			g.title += " ↑"
		}
		for _, s := range m.Series {
			if s.Subject == name {
				continue
			}
			ratio := Summarise(Ratios(s.Values, base))
			if ratio.N == 0 || ratio.Min <= 0 || math.IsInf(ratio.Max, 0) {
				continue
			}
			g.bars = append(g.bars, bar{s.Subject, ratio})
			if !seen[s.Subject] {
				seen[s.Subject] = true
				subjects = append(subjects, s.Subject)
			}
		}
		if len(g.bars) > 0 {
			groups = append(groups, g)
		}
	}
	return groups, subjects
}

// The scale ends at 1, 2 or 5 times a power of ten.
var steps = []float64{1, 2, 5, 10}

func roundDown(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	best := p
	for _, s := range steps {
		if s*p <= v*(1+1e-9) {
			best = s * p
		}
	}
	if best >= 1 {
		return 0.5
	}
	return best
}

func roundUp(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, s := range steps {
		if best := s * p; best >= v*(1-1e-9) {
			return max(best, 2)
		}
	}
	return 10 * p
}

// ticks are the powers of ten, with 2 and 5 times them where the scale is short.
func ticks(lo, hi float64) []float64 {
	var t []float64
	for e := math.Floor(math.Log10(lo)); e <= math.Ceil(math.Log10(hi)); e++ {
		for _, s := range steps[:3] {
			v := s * math.Pow(10, e)
			if v >= lo*(1-1e-9) && v <= hi*(1+1e-9) && (s == 1 || hi/lo <= 1000) {
				t = append(t, math.Round(v*1e9)/1e9)
			}
		}
	}
	return t
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}
