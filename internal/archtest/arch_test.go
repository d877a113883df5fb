// Package archtest holds ARCHITECTURE.md and the code to each other: who imports
// whom, a comment on every package, files of a size one can read.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ustack/ustack"

// A pkg is what `go list -json` says of a package.
type pkg struct {
	Dir          string
	ImportPath   string
	Doc          string
	Standard     bool
	GoFiles      []string
	CgoFiles     []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	Deps         []string
}

// name is the folder, as ARCHITECTURE.md calls a package.
func (p *pkg) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

const root = "../.."

func goList(t *testing.T, args ...string) []*pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = root
	// One platform and no cgo, whatever the machine: the files that are released.
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var all []*pkg
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		p := new(pkg)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// table reads the table of packages: folder → what it may import.
func table(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	rows := make(map[string][]string)
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| `") || len(cells) != 3 {
			continue
		}
		name := quoted.FindStringSubmatch(cells[0])[1]
		if rows[name] != nil {
			t.Errorf("ARCHITECTURE.md: %s has two rows", name)
		}
		rows[name] = []string{}
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			rows[name] = append(rows[name], m[1])
		}
	}
	if len(rows) == 0 {
		t.Fatal("ARCHITECTURE.md: no table of packages")
	}
	return rows
}

// allowed reports whether a row permits an import.
func allowed(row []string, path string) bool {
	own, isOwn := strings.CutPrefix(path, module+"/")
	for _, a := range row {
		switch {
		case a == "*":
			return true
		case isOwn && a == own:
			return true
		case !isOwn && (path == a || strings.HasPrefix(path, a+"/")):
			return true
		}
	}
	return false
}

func TestImportsFollowTheTable(t *testing.T) {
	rows := table(t)
	standard := make(map[string]bool)
	for _, p := range goList(t, "-deps", "./...") {
		standard[p.ImportPath] = p.Standard
	}
	seen := make(map[string]bool)
	for _, p := range goList(t, "./...") {
		seen[p.name()] = true
		row, ok := rows[p.name()]
		if !ok {
			t.Errorf("%s has no row in the table of ARCHITECTURE.md", p.name())
			continue
		}
		for _, path := range p.Imports {
			if !standard[path] && !allowed(row, path) {
				t.Errorf("%s imports %s; ARCHITECTURE.md allows it %v", p.name(), path, row)
			}
		}
	}
	for name := range rows {
		if !seen[name] {
			t.Errorf("ARCHITECTURE.md has a row for %s, which is no package", name)
		}
	}
}

// What must not get into a package by any way round.
func TestBannedDependencies(t *testing.T) {
	const why = "programs that dial through the daemon stay small and know nothing of its stack"
	for _, ban := range []struct{ pkg, dep, why string }{
		{"apps/curl", "gvisor.dev/gvisor", why},
		{"apps/ping", "gvisor.dev/gvisor", why},
		{"control", "gvisor.dev/gvisor", why},
		{"stack", "github.com/vishvananda/netlink", "the stack never touches the host's network"},
		{"link", "golang.org/x/sys", "the contract is for drivers on every system"},
		{"cmd/ustack", "testing", "a test suite does not belong into the daemon"},
	} {
		for _, p := range goList(t, "./"+ban.pkg) {
			i := slices.IndexFunc(p.Deps, func(d string) bool {
				return d == ban.dep || strings.HasPrefix(d, ban.dep+"/")
			})
			if i >= 0 {
				t.Errorf("%s depends on %s: %s", ban.pkg, p.Deps[i], ban.why)
			}
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range goList(t, "./...") {
		doc := p.Doc
		// Folders of tests only: go list has no Doc for these.
		if len(p.GoFiles) == 0 {
			for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
				file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
				if err != nil {
					t.Fatal(err)
				}
				doc += file.Doc.Text()
			}
		}
		if strings.TrimSpace(doc) == "" {
			t.Errorf("%s has no package comment", p.name())
		}
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s needs cgo: %v", p.name(), p.CgoFiles)
		}
	}
}

func TestFilesAreShortEnoughToRead(t *testing.T) {
	const most = 600 // lines
	for _, p := range goList(t, "./...") {
		for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(b, []byte("\n")); n > most {
				t.Errorf("%s/%s has %d lines: more than one idea?", p.name(), f, n)
			}
		}
	}
}

// netstack has no releases: another version is another behaviour, so the change has
// to be made knowingly, here too.
func TestNetstackIsPinned(t *testing.T) {
	const want = "gvisor.dev/gvisor v0.0.0-20260905035102-160fafc42237"
	b, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("\t"+want+"\n")) {
		t.Errorf("go.mod does not require %s", want)
	}
}

// A test that skips itself is a test that nobody misses: only netlab may, which
// fails instead where everything has to be there.
func TestOnlyNetlabSkips(t *testing.T) {
	skip := regexp.MustCompile(`\.Skip(f|Now)?\(`)
	for _, p := range goList(t, "./...") {
		if p.name() == "internal/netlab" || p.name() == "internal/archtest" {
			continue
		}
		for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if at := skip.FindIndex(b); at != nil {
				t.Errorf("%s/%s:%d skips a test", p.name(), f, 1+bytes.Count(b[:at[0]], []byte("\n")))
			}
		}
	}
}
