package metrics_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/metrics"
)

// A dashboard is what is checked of Grafana's JSON model.
type dashboard struct {
	Title, UID string
	Templating struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
		}
	}
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct{ RefID, Expr, LegendFormat string }
}

// known are the labels of every metric that a scrape answers, by its name; those that
// Prometheus adds come with them.
func known(t *testing.T) map[string][]string {
	t.Helper()
	a, _ := pair(t, link.PipeConfig{})
	w := httptest.NewRecorder()
	metrics.NewHandler(metrics.Config{Stack: a, Ports: onePort, Control: noRequests, Version: "v1"}, nil).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string][]string)
	for name, f := range families {
		labels := []string{"job", "instance"}
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		if f.Metric[0].Histogram != nil {
			names[name+"_bucket"] = append(slices.Clone(labels), "le")
			names[name+"_sum"], names[name+"_count"] = labels, labels
			continue
		}
		names[name] = labels
	}
	return names
}

var (
	inString = regexp.MustCompile(`"[^"]*"`)
	inRange  = regexp.MustCompile(`\[[^\]]*\]`)
	matchers = regexp.MustCompile(`([a-zA-Z_:][\w:]*)?\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`^([a-zA-Z_]\w*)(=|!=|=~|!~)$`)
	grouping = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	word     = regexp.MustCompile(`[a-zA-Z_:][\w:]*\s*\(?`)
)

// check returns what is wrong with an expression of PromQL: metrics that are not known, and labels
// that none of its metrics has.
func check(expr string, known map[string][]string) (problems []string) {
	bare := inRange.ReplaceAllString(inString.ReplaceAllString(expr, ""), "")
	for _, pair := range []string{"()", "{}"} {
		if strings.Count(bare, pair[:1]) != strings.Count(bare, pair[1:]) {
			problems = append(problems, "unbalanced "+pair)
		}
	}
	var groups [][]string
	bare = grouping.ReplaceAllStringFunc(bare, func(s string) string {
		groups = append(groups, strings.FieldsFunc(grouping.FindStringSubmatch(s)[2], func(r rune) bool { return r == ',' || r == ' ' }))
		return ""
	})
	for _, m := range matchers.FindAllStringSubmatch(bare, -1) {
		if m[1] == "" {
			problems = append(problems, "matchers without a metric")
		}
		for _, part := range strings.Split(m[2], ",") {
			label := matcher.FindStringSubmatch(strings.TrimSpace(part))
			if label == nil || !slices.Contains(known[m[1]], label[1]) {
				problems = append(problems, fmt.Sprintf("%s has no label in %q", m[1], part))
			}
		}
	}
	bare = matchers.ReplaceAllString(bare, "$1")
	labels := make(map[string]bool)
	n := 0
	for _, w := range word.FindAllString(bare, -1) {
		if strings.HasSuffix(w, "(") || slices.Contains([]string{"and", "or", "unless", "bool", "offset"}, w) {
			continue
		}
		w = strings.TrimSpace(w)
		n++
		if known[w] == nil {
			problems = append(problems, "no metric "+w)
		}
		for _, l := range known[w] {
			labels[l] = true
		}
	}
	if n == 0 {
		problems = append(problems, "no metric at all")
	}
	for _, l := range slices.Concat(groups...) {
		if !labels[l] {
			problems = append(problems, "no label "+l)
		}
	}
	return problems
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	known := map[string][]string{"a_total": {"job", "x"}, "b_bucket": {"le"}}
	for expr, ok := range map[string]bool{
		`sum by (x) (rate(a_total{job=~"$job"}[$__rate_interval])) > 0`:      true,
		`histogram_quantile(0.9, sum by (le) (rate(b_bucket[5m])))`:          true,
		`sum(rate(a_total[5m])) / sum(rate(a_total{x!="}, no_metric"}[1m]))`: true,
		`rate(a_totl[5m])`:                   false,
		`sum by (y) (rate(a_total[5m]))`:     false,
		`rate(a_total{y="1"}[5m])`:           false,
		`a_total / c_total`:                  false,
		`sum(rate(a_total[5m])`:              false,
		`histogram_quantile(0.9, b{le="1"})`: false,
		`1 + 1`:                              false,
	} {
		if problems := check(expr, known); (len(problems) == 0) != ok {
			t.Errorf("%s: %q", expr, problems)
		}
	}
}

// The dashboard asks for nothing that there is not.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../contrib/grafana/ustack.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	known := known(t)
	if d.Title == "" || d.UID == "" {
		t.Error("no title or no uid")
	}
	variables := map[string]bool{"$__rate_interval": true}
	for _, v := range d.Templating.List {
		variables["$"+v.Name] = true
		if v.Type != "query" {
			continue
		}
		m := regexp.MustCompile(`label_values\((.*), (\w+)\)`).FindStringSubmatch(string(v.Query))
		if m == nil {
			t.Errorf("variable %s: %s", v.Name, v.Query)
			continue
		}
		for _, p := range check(fmt.Sprintf("sum by (%s) (%s)", m[2], strings.ReplaceAll(m[1], `\"`, `"`)), known) {
			t.Errorf("variable %s: %s", v.Name, p)
		}
	}
	ids, refs, shown := map[int]bool{}, 0, map[string]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("panel %q: id %d is not its own", p.Title, p.ID)
		}
		ids[p.ID] = true
		for _, o := range d.Panels[:i] {
			if a, b := p.GridPos, o.GridPos; a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, o.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q: no title, description, unit or target", p.ID, p.Title)
		}
		for _, target := range p.Targets {
			refs++
			for _, problem := range check(target.Expr, known) {
				t.Errorf("panel %q: %s: %s", p.Title, target.Expr, problem)
			}
			for _, v := range regexp.MustCompile(`\$\w+`).FindAllString(target.Expr, -1) {
				if !variables[v] {
					t.Errorf("panel %q: no variable %s", p.Title, v)
				}
			}
			for name := range known {
				if strings.Contains(target.Expr, name) {
					shown[name] = true
				}
			}
		}
	}
	if refs < 30 {
		t.Errorf("only %d expressions were found: has the model changed?", refs)
	}
	// Each layer's drops are to be seen.
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if strings.HasPrefix(name, "ustack_") && strings.Contains(name, "_dropped_total") && !shown[name] &&
			!strings.Contains(name, "igmp") && !strings.Contains(name, "forwarding") {
			t.Errorf("no panel shows %s", name)
		}
	}
}
