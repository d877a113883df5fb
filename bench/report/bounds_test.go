package report

import (
	"strings"
	"testing"
)

const goodBounds = `# why

s* us veth
e us
	First sentence.
	# not for readers
	Second one.
	profile: a.txt
* *
	Anything else.
	profile: b.txt
`

func TestParseBounds(t *testing.T) {
	all, err := ParseBounds(goodBounds)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || len(all[0].Covers) != 2 || all[0].Text != "First sentence. Second one." || all[0].Profile != "a.txt" ||
		all[1].Covers[0] != (Cover{"*", "*", "*", 9}) || all[1].Profile != "b.txt" {
		t.Errorf("%+v", all)
	}
	for metric, want := range map[string]bool{"s": true, "stream": true, "e": false} {
		if got := all[0].Covers[0].Picks(metric, Goal{Subject: "us", Against: "veth"}); got != want {
			t.Errorf("%s: %v", metric, got)
		}
	}
	for _, g := range []Goal{{Subject: "us"}, {Subject: "us", Against: "naive"}, {Subject: "them", Against: "veth"}} {
		if all[0].Covers[0].Picks("s", g) {
			t.Errorf("picks %+v", g)
		}
	}
	if all, err := ParseBounds("# nothing\n"); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestParseBoundsErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"\n  A sentence.\n", `line 2: "A sentence." stands under no`},
		{"s us\n\tText.\n\tprofile: a.txt\n\tMore.\n", `line 4: "More." stands behind the profile`},
		{"one\n", `line 1: "one" has 1 words`},
		{"A sentence without indent.\n", `line 1: "A sentence without indent." has 4 words`},
		{"[ us\n\tText.\n", `line 1: pattern "["`},
		{"s us\n\tprofile: a.txt\n", `line 1: the entry says nothing`},
		{"# c\ns us\n\tText.\n", `line 2: the entry has no profile`},
		{"s us\n\tText.\ne us\n\tText.\n\tprofile: a.txt\n", `line 1: the entry has no profile`},
		{"s us\n\tText.\n\tprofile: ../a.txt\n", `line 3: profile "../a.txt"`},
		{"s us\n\tText.\n\tprofile:\n", `line 3: profile ""`},
		{"s us\n", `line 1: the entry says nothing`},
	} {
		if _, err := ParseBounds(c.text); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
	}
}

// Only what was missed is explained, once, and what nobody explains is named.
func TestMarkdownBounds(t *testing.T) {
	r := sample()
	r.Metrics[2].Goals = []Goal{{"us", "kernel", 2}, {"us", "", 1}}
	text := func() string {
		var b strings.Builder
		if err := r.Markdown(&b); err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(b.String(), "## What bounds the figures missed\n")
		section, _, _ := strings.Cut(after, "\n## ")
		return section
	}
	var err error
	if r.Bounds, err = ParseBounds("e us\n\tNot missed.\n\tprofile: e.txt\ns us veth\n\tThe wire.\n\tprofile: s.txt\n* us veth\n\tLater.\n\tprofile: x.txt\n"); err != nil {
		t.Fatal(err)
	}
	const want = `
- **stream**, us: 0.500, not ≥ 0.9 × veth

  The wire. [Profile](profiles/s.txt)

Not explained yet:

- **lossy <&>**, us: 1.25, not ≥ 2 × kernel (` + "`l us`" + `)
`
	if got := text(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	for i := range r.Metrics {
		r.Metrics[i].Goals = nil
	}
	if got := text(); got != "" {
		t.Errorf("nothing was missed, but: %s", got)
	}
}

func FuzzParseBounds(f *testing.F) {
	f.Add(goodBounds)
	f.Add("s us\n\tText.\n\tprofile: ../a.txt\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseBounds(text)
		if err != nil && !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("an error without its line: %v", err)
		}
		for _, b := range all {
			if err == nil && (len(b.Covers) == 0 || b.Text == "" || b.Profile == "") {
				t.Errorf("incomplete: %+v", b)
			}
		}
	})
}
