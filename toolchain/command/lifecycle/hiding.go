package lifecycle

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	hidden = "[hidden]"

	// minSecret is the shortest value that is hidden: hiding a shorter one ("1", "yes") would blank out half a message.
	minSecret = 4

	// minLine is the shortest line of a secret that is hidden on its own.
	minLine = 8

	// minScriptLine is the shortest line of stdin that is hidden on its own. stdin is mostly a script, whose shorter
	// lines ("defaults", an address) also occur in what its programs report.
	minScriptLine = 16
)

// privateKey is a private key in PEM, complete or cut off, with line breaks of any spelling.
var privateKey = regexp.MustCompile(
	`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`)

// Hider returns a function that blanks out of a text the given secrets, the environment's values, stdin, each line of
// any of them, and every private key.
func (i *Inputs) Hider(secrets ...string) func(text string) string {
	known := map[string]bool{}
	add := func(value string, atLeast int) {
		if value = strings.TrimSpace(value); len(value) >= atLeast {
			for _, spelling := range spellings(value) {
				known[spelling] = true
			}
		}
	}
	addLines := func(value string, atLeast int) {
		add(value, minSecret)
		for line := range strings.Lines(value) {
			add(line, atLeast)
		}
	}
	for _, value := range secrets {
		addLines(value, minLine)
	}
	for _, value := range i.Environment {
		addLines(value, minLine)
	}
	if i.Stdin != nil {
		addLines(*i.Stdin, minScriptLine)
	}

	// The longest first: otherwise a line would be hidden, and the rest of its secret left.
	longestFirst := make([]string, 0, len(known))
	for spelling := range known {
		longestFirst = append(longestFirst, spelling)
	}
	slices.SortFunc(longestFirst, func(a, b string) int { return len(b) - len(a) })
	pairs := make([]string, 0, 2*len(longestFirst))
	for _, spelling := range longestFirst {
		pairs = append(pairs, spelling, hidden)
	}
	replacer := strings.NewReplacer(pairs...)
	return func(text string) string { return replacer.Replace(privateKey.ReplaceAllString(text, hidden)) }
}

var (
	// escaped is how Python and bash show a text with line breaks, before they escape quotes.
	escaped = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`)
	// special are the characters before which bash's `printf %q` puts a backslash.
	special = regexp.MustCompile("[ !\"#$&'()*,;<>?\\[\\\\\\]^`{|}]")
)

// spellings are value and how programs show it: quoted in Go, JSON, Python or a shell, and in a URL. The quotes
// themselves are left out.
func spellings(value string) []string {
	inJSON, _ := json.Marshal(value) // a string never fails
	all := []string{
		value,
		escaped.Replace(value),
		strings.ReplaceAll(escaped.Replace(value), `'`, `\'`),
		strings.ReplaceAll(value, `'`, `'\''`),
		strings.ReplaceAll(value, `'`, `'"'"'`),
		special.ReplaceAllString(value, `\$0`),
		url.QueryEscape(value),
		url.PathEscape(value),
	}
	for _, quoted := range []string{strconv.Quote(value), strconv.QuoteToASCII(value), string(inJSON)} {
		all = append(all, quoted[1:len(quoted)-1])
	}
	return all
}
