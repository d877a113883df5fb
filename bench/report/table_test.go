package report

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func sample() Report {
	return Report{
		Head: "# Results\n", Base: "veth", Others: []string{"naive"}, Chart: "c.svg", Notes: []string{"a note"},
		Metrics: []Metric{
			{ID: "s", Title: "stream", Unit: "Gbit/s", Goals: []Goal{{"us", "veth", 0.4}, {"us", "veth", 0.9}, {"gone", "veth", 1}},
				Series: []Series{{"veth", []float64{60, 50, 40}}, {"us", []float64{30, nan, 20}}, {"naive", []float64{2, 2, 2}}, {"gone", []float64{nan}}}},
			{ID: "e", Title: "errors", LowIsGood: true, NoRatios: true, Goals: []Goal{{"us", "", 0}},
				Series: []Series{{"veth", []float64{0}}, {"us", []float64{0}}}},
			{ID: "l", Title: "lossy <&>", Unit: "Mbit/s", Base: "kernel",
				Series: []Series{{"kernel", []float64{1000}}, {"us", []float64{1250}}}},
		},
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := sample().Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Results\n",
		"![Ratios to veth](c.svg)",
		"| | subject | value | × veth | × naive | rounds |\n|---|---|---|---|---|---|\n",
		"| stream, Gbit/s | veth | 50.0 (40.0–60.0) |  | 25.0 (20.0–30.0) | 3 |\n",
		"|  | us | 25.0 (20.0–30.0) | 0.500 (0.500–0.500) | 12.5 (10.0–15.0) | 2 of 3 |\n",
		"|  | gone | – | – | – | 0 of 1 |\n",
		"| errors | veth | 0.00 (0.00–0.00) |  |  | 1 |\n",
		"|  | us | 1250 (1250–1250) | 1.25 (1.25–1.25) × kernel |  | 1 |\n",
		"| stream | us | ≥ 0.4 × veth | 0.500 (0.500–0.500) | reached |\n",
		"| stream | us | ≥ 0.9 × veth | 0.500 (0.500–0.500) | **missed** |\n",
		"| errors | us | ≤ 0 | 0.00 (0.00–0.00) | reached |\n",
		"- a note\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "|") && strings.Contains(line, "× veth | × naive") && strings.Count(line, "|") != 7 {
			t.Errorf("columns: %q", line)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.0123: "0.012", 1: "1.00", 12.34: "12.3", 123.4: "123", 20000: "20000", 1234567: "1.23 M", -5: "-5.00",
	} {
		if got := Number(v); got != want {
			t.Errorf("Number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestSVG(t *testing.T) {
	var b strings.Builder
	drawn, err := sample().SVG(&b)
	if err != nil || !drawn {
		t.Fatal(drawn, err)
	}
	rects, texts := 0, []string(nil)
	d := xml.NewDecoder(strings.NewReader(b.String()))
	inText := false
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if tok.Name.Local == "rect" {
				rects++
			}
			inText = tok.Name.Local == "text"
		case xml.CharData:
			if inText {
				texts = append(texts, string(tok))
			}
		case xml.EndElement:
			inText = false
		}
	}
	// Background, and bars: us and naive of stream, us of lossy.
	if rects != 1+3 {
		t.Errorf("%d rectangles in\n%s", rects, b.String())
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{"stream ↑", "lossy <&> ↑", "us", "naive", "0.500", "1.25"} {
		if !strings.Contains(all, want) {
			t.Errorf("no text %q in\n%s", want, all)
		}
	}
	if strings.Contains(all, "gone") || strings.Contains(all, "errors") {
		t.Errorf("what has no ratios is drawn:\n%s", all)
	}
}

func TestSVGOfNothing(t *testing.T) {
	var b strings.Builder
	if drawn, err := (Report{Base: "veth"}).SVG(&b); drawn || err != nil || b.Len() > 0 {
		t.Errorf("%v, %v: %s", drawn, err, b.String())
	}
}

func TestScale(t *testing.T) {
	same := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
	for v, want := range map[float64]float64{0.03: 0.02, 0.05: 0.05, 0.9: 0.5, 1: 0.5} {
		if got := roundDown(v); !same(got, want) {
			t.Errorf("roundDown(%v) = %v, want %v", v, got, want)
		}
	}
	for v, want := range map[float64]float64{1: 2, 3: 5, 17: 20, 100: 100} {
		if got := roundUp(v); !same(got, want) {
			t.Errorf("roundUp(%v) = %v, want %v", v, got, want)
		}
	}
	if got := ticks(0.5, 20); len(got) != 6 { // 0.5 1 2 5 10 20
		t.Errorf("ticks %v", got)
	}
	if got := ticks(0.001, 100); len(got) != 6 { // powers of ten only
		t.Errorf("ticks %v", got)
	}
}
