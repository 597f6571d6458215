package image

import "strings"

// runscript is what `run` executes in an image that was made from an OCI one:
// ENTRYPOINT and CMD, whose place arguments take.
//
// SingularityCE knows it by the line `eval "set ${SINGULARITY_OCI_RUN}"` and
// then interprets it itself, so that images without /bin/sh work; this line,
// the names of the variables and SINGULARITY_NO_EVAL are the contract. Each of
// OCI_ENTRYPOINT and OCI_CMD is a list of words in double quotes, inside single
// quotes. Arguments are put between double quotes as they are: with evaluation,
// "$HOME" in one is expanded inside the container, and so must backslashes and
// quotes be escaped once more, as SingularityCE's users know it.
func runscript(entrypoint, cmd []string) string {
	var b strings.Builder
	line := func(parts ...string) {
		for _, p := range parts {
			b.WriteString(p)
		}
		b.WriteByte('\n')
	}
	line("#!/bin/sh")
	line("# Made from the ENTRYPOINT and CMD of an OCI image. Arguments replace CMD.")
	line("OCI_ENTRYPOINT=", singleQuote(evaluated(entrypoint)))
	line("OCI_CMD=", singleQuote(evaluated(cmd)))
	line()
	line(`if [ $# -eq 0 ] && [ -z "${OCI_ENTRYPOINT}${OCI_CMD}" ]; then`)
	line(`    echo "The image has no ENTRYPOINT and no CMD: name a command to run" >&2`)
	line(`    exit 1`)
	line(`fi`)
	line()
	line("# Asked not to evaluate: the words as an OCI runtime would take them.")
	line(`if [ -n "${SINGULARITY_NO_EVAL:-}" ]; then`)
	line(`    if [ $# -eq 0 ]; then`)
	line(`        `, literal(cmd))
	line(`    fi`)
	line(`    `, literal(entrypoint))
	line(`    exec "$@"`)
	line(`fi`)
	line()
	line("# The shell evaluates the words once. The two dashes keep a first word such as")
	line("# -x from being an option of set.")
	line(`SINGULARITY_OCI_RUN="-- ${OCI_ENTRYPOINT}"`)
	line(`if [ $# -gt 0 ]; then`)
	line(`    for arg in "$@"; do`)
	line(`        SINGULARITY_OCI_RUN="${SINGULARITY_OCI_RUN} \"${arg}\""`)
	line(`    done`)
	line(`else`)
	line(`    SINGULARITY_OCI_RUN="${SINGULARITY_OCI_RUN} ${OCI_CMD}"`)
	line(`fi`)
	line(`eval "set ${SINGULARITY_OCI_RUN}"`)
	line(`exec "$@"`)
	return b.String()
}

// evaluated writes words so that evaluating the line gives them back.
func evaluated(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = `"` + escapeDouble(w) + `"`
	}
	return strings.Join(quoted, " ")
}

// literal is the command that puts words before the arguments; a branch of a
// script must not be empty.
func literal(words []string) string {
	if len(words) == 0 {
		return ":"
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = singleQuote(w)
	}
	return "set -- " + strings.Join(quoted, " ") + ` "$@"`
}

// singleQuote writes a quote as '"'"', not as '\”, which mvdan.cc/sh 3.13 reads
// wrongly in an assignment.
func singleQuote(s string) string { return `'` + strings.ReplaceAll(s, `'`, `'"'"'`) + `'` }

// escapeDouble escapes what is special between double quotes (POSIX.1-2024,
// XCU 2.2.3).
func escapeDouble(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if strings.IndexByte("\\\"$`", c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// environmentScript exports an OCI image's ENV. Values that are set already
// win, save for PATH, as in SingularityCE's images. Theirs say
// K="${K:-"value"}", in which bash expands the braces of a value such as
// {"a":1,"b":2}.
func environmentScript(env []string) string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case !isVariable(name):
			continue
		case name == "PATH":
			b.WriteString("PATH=" + singleQuote(value))
		default:
			b.WriteString(`[ -n "${` + name + `:-}" ] || ` + name + "=" + singleQuote(value))
		}
		b.WriteString("\nexport " + name + "\n")
	}
	return b.String()
}

// isVariable tells whether a shell takes s as a variable's name.
func isVariable(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
