package curl

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
)

// A formPart is one -F.
type formPart struct {
	name, filename, contentType string
	seg                         segment
}

// addForm takes one -F, or one --form-string when literal.
func (c *config) addForm(v string, literal bool) error {
	name, content, ok := strings.Cut(v, "=")
	if !ok || name == "" {
		return fmt.Errorf("%q is not NAME=CONTENT", v)
	}
	p := formPart{name: name}
	if literal {
		p.seg = bytesSegment([]byte(content))
		c.form = append(c.form, p)
		return nil
	}
	kind := byte(0)
	if content != "" && (content[0] == '@' || content[0] == '<') {
		kind, content = content[0], content[1:]
	}
	content, attrs := cutAttributes(content)
	for _, a := range attrs {
		key, val, _ := strings.Cut(a, "=")
		switch key {
		case "type":
			p.contentType = val
		case "filename":
			p.filename = unquote(val)
		}
	}
	if strings.ContainsAny(p.contentType, "\r\n") {
		return fmt.Errorf("the type %q has a line end in it", p.contentType)
	}
	content = unquote(content)
	var err error
	switch kind {
	case 0:
		p.seg = bytesSegment([]byte(content))
	default:
		p.seg, err = fileSegment(content, c.stdin)
	}
	if kind == '@' {
		if p.filename == "" {
			p.filename = filepath.Base(content)
		}
		if p.contentType == "" {
			p.contentType = typeByName(p.filename)
		}
	}
	c.form = append(c.form, p)
	return err
}

// cutAttributes splits ";type=a;filename=b" off. A ; of anything else, or inside
// quotes, belongs to the content; type may itself hold "; charset=…".
func cutAttributes(s string) (content string, attrs []string) {
	start := -1
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ';' && !quoted:
			rest := strings.TrimLeft(s[i+1:], " ")
			if !strings.HasPrefix(rest, "type=") && !strings.HasPrefix(rest, "filename=") {
				continue
			}
			if start < 0 {
				content = s[:i]
			} else {
				attrs = append(attrs, s[start:i])
			}
			start = len(s) - len(rest)
		}
	}
	if start < 0 {
		return s, nil
	}
	return content, append(attrs, s[start:])
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(s[1 : len(s)-1])
}

// typeByName is independent of the machine's own table of types.
func typeByName(name string) string {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".gif":
		return "image/gif"
	case ".jpg", ".jpeg":
		return "image/jpeg"
	case ".png":
		return "image/png"
	case ".svg":
		return "image/svg+xml"
	case ".txt":
		return "text/plain"
	case ".htm", ".html":
		return "text/html"
	case ".pdf":
		return "application/pdf"
	case ".xml":
		return "application/xml"
	case ".json":
		return "application/json"
	}
	return "application/octet-stream"
}

// formPayload writes the parts as multipart/form-data (RFC 7578).
func formPayload(parts []formPart) *payload {
	var random [12]byte
	rand.Read(random[:])
	boundary := "------------------------" + hex.EncodeToString(random[:])
	quote := strings.NewReplacer(`"`, "%22", "\r", "%0D", "\n", "%0A").Replace
	var segs []segment
	for _, p := range parts {
		var b strings.Builder
		fmt.Fprintf(&b, "--%s\r\nContent-Disposition: form-data; name=\"%s\"", boundary, quote(p.name))
		if p.filename != "" {
			fmt.Fprintf(&b, "; filename=\"%s\"", quote(p.filename))
		}
		b.WriteString("\r\n")
		if p.contentType != "" {
			fmt.Fprintf(&b, "Content-Type: %s\r\n", p.contentType)
		}
		b.WriteString("\r\n")
		segs = append(segs, bytesSegment([]byte(b.String())), p.seg, bytesSegment([]byte("\r\n")))
	}
	segs = append(segs, bytesSegment([]byte("--"+boundary+"--\r\n")))
	return newPayload("multipart/form-data; boundary="+boundary, segs)
}
