package native

import (
	"bytes"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// repair makes up for the interpreter's keeping backslashes in the unquoted
// parts of an assignment: it takes A=a\ b for "a\ b" (mvdan.cc/sh v3.13.1). It
// quotes what such a backslash escapes, and tells whether there was any.
func repair(file *syntax.File) bool {
	found := false
	fix := func(w *syntax.Word) {
		if w == nil {
			return
		}
		var parts []syntax.WordPart
		for _, part := range w.Parts {
			lit, ok := part.(*syntax.Lit)
			if !ok || !strings.Contains(lit.Value, `\`) {
				parts = append(parts, part)
				continue
			}
			found = true
			parts = append(parts, unescape(lit.Value)...)
		}
		w.Parts = parts
	}
	syntax.Walk(file, func(node syntax.Node) bool {
		switch node := node.(type) {
		case *syntax.Assign:
			fix(node.Value)
		case *syntax.ArrayElem:
			fix(node.Value)
		}
		return true
	})
	return found
}

// unescape splits an unquoted literal into what is not escaped and, in single
// quotes, what is.
func unescape(s string) []syntax.WordPart {
	var parts []syntax.WordPart
	var plain strings.Builder
	flush := func() {
		if plain.Len() > 0 {
			parts = append(parts, &syntax.Lit{Value: plain.String()})
			plain.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			plain.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case '\n': // the line goes on
		case '\'':
			flush()
			parts = append(parts, &syntax.DblQuoted{Parts: []syntax.WordPart{&syntax.Lit{Value: "'"}}})
		default:
			flush()
			parts = append(parts, &syntax.SglQuoted{Value: s[i : i+1]})
		}
	}
	flush()
	return parts
}

// repaired is repair for a script that the interpreter will parse itself.
func repaired(content []byte, name string) []byte {
	if bytes.IndexByte(content, '\\') < 0 {
		return content
	}
	file, err := syntax.NewParser().Parse(bytes.NewReader(content), name)
	if err != nil || !repair(file) {
		return content
	}
	var out bytes.Buffer
	if err := syntax.NewPrinter().Print(&out, file); err != nil {
		return content
	}
	return out.Bytes()
}
