package curl

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

func TestWriteOut(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/x")
		w.Header().Set("X-Own", "mine")
		w.WriteHeader(201)
		w.Write([]byte("12345"))
	})
	host, port := hostOf(s.URL)
	for _, tt := range []struct{ format, want string }{
		{`%{http_code} %{response_code}\n`, "201 201\n"},
		{`%{size_download}\t%{content_type}`, "5\ttext/x"},
		{`%{remote_ip}:%{remote_port} %{local_ip}`, host + ":" + port + " 127.0.0.1"},
		{`%{url} %{url_effective} %{scheme} %{method}`, s.URL + " " + s.URL + "/ HTTP GET"},
		{`%{num_redirects}%{num_connects}%{http_version}%{exitcode}[%{errormsg}]`, "011.10[]"},
		{`%%{http_code} 100% \x %{`, `%{http_code} 100% \x %{`},
		{`%header{x-own}|%header{none}`, "mine|"},
		{`%{stderr}x%{stdout}y`, "y"},
		{`%{nonsense}.`, "."},
		{"@" + file(t, "format", `file %{http_code}`), "file 201"},
		{``, ""},
	} {
		run("-w", tt.format, "-o", "/dev/null", s.URL).want(t, 0, tt.want)
	}
	run("-w", "%{stderr}x", s.URL).want(t, 0, "12345").says(t, "x")
	run("-w", "%{nonsense}", s.URL).says(t, "unknown --write-out variable: 'nonsense'")
	run("-w", "%{local_port}", "-o", "/dev/null", s.URL).code0(t)
	run("-s", "-w", "%{http_code} %{exitcode} %{errormsg}", "http://none.test").want(t, exitResolve, "000 6 Could not resolve host: none.test")
	run("-s", "-w", "%{http_code} %{exitcode} %{url_effective}", "ftp://x").want(t, exitProtocol, "000 1 ftp://x")

	var vars map[string]any
	o := run("-w", "%{json}", "-o", "/dev/null", s.URL).code0(t)
	if err := json.Unmarshal([]byte(o.out), &vars); err != nil {
		t.Fatalf("%v: %s", err, o.out)
	}
	for _, v := range writeOutVars() {
		if _, ok := vars[v.name]; !ok {
			t.Errorf("%%{json} lacks %s", v.name)
		}
	}
	if vars["http_code"] != 201.0 || vars["content_type"] != "text/x" || vars["time_total"].(float64) <= 0 {
		t.Fatalf("%v", vars)
	}
}

func FuzzWriteOut(f *testing.F) {
	for _, s := range []string{"", "%", "%{", "%{}", "%}{", "%{http_code}", "%header{", "%header{a}%", `\`, `\n%{json}\`, "%%{x}", "%{\x00}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, format string) {
		plain := !strings.ContainsAny(format, `%\`)
		var text strings.Builder
		expand(format, func(kind, value string) {
			if plain && kind != "text" {
				t.Fatalf("%q emits a %s", format, kind)
			}
			text.WriteString(value)
		})
		if plain && text.String() != format {
			t.Fatalf("%q became %q", format, text.String())
		}
		s := newSession(&config{writeOut: format, silent: true}, newTool().env, nil)
		s.env.Stdout, s.env.Stderr = &strings.Builder{}, &strings.Builder{}
		s.writeOut(&result{t: &transfer{s: s, c: s.c, tg: &target{}}})
	})
}
