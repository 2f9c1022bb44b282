package lifecycle

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestEverySpellingOfASecretIsHidden(t *testing.T) {
	hide := (&Inputs{}).Hider(`it's "so" <a\b>`)
	for name, spelling := range map[string]string{
		"as it is":              `it's "so" <a\b>`,
		"Go's quotes":           `it's \"so\" <a\\b>`,
		"JSON":                  `it's \"so\" \u003ca\\b\u003e`,
		"Python, single quotes": `it\'s "so" <a\\b>`,
		"shell":                 `it'\''s "so" <a\b>`,
		"shell, Python's way":   `it'"'"'s "so" <a\b>`,
		"shell, backslashes":    `it\'s\ \"so\"\ \<a\\b\>`,
		"URL, query":            `it%27s+%22so%22+%3Ca%5Cb%3E`,
		"URL, path":             `it%27s%20%22so%22%20%3Ca%5Cb%3E`,
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, "before [hidden] after", hide("before "+spelling+" after"))
		})
	}
}

func TestASecretWithLineBreaksIsHiddenAsAWhole(t *testing.T) {
	hide := (&Inputs{}).Hider("uno's\ndos\ttres\n")
	for name, spelling := range map[string]string{
		"as it is":        "uno's\ndos\ttres",
		"Go and JSON":     `uno's\ndos\ttres`,
		"bash, $'...'":    `uno\'s\ndos\ttres`,
		"URL":             `uno%27s%0Ados%09tres`,
		"shell":           "uno'\\''s\ndos\ttres",
		"in JSON's ASCII": `uno's\ndos\ttres`,
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, "<[hidden]>", hide("<"+spelling+">"))
		})
	}
	assert.Equal(t, `"[hidden]"`, (&Inputs{}).Hider("señor\nñandú")(`"se\u00f1or\n\u00f1and\u00fa"`), "JSON in ASCII")
}

func TestEachLineOfASecretIsHiddenExceptShortOnes(t *testing.T) {
	secret := "a-long-line-of-it\r\n  another \"line\" of it\nend\n"
	script := "set -e\nuser haproxy\nauth_pass (secret)\n"
	for name, test := range map[string]struct {
		inputs  Inputs
		secrets []string
		text    string
		want    string
	}{
		"of the connection": {
			Inputs{}, []string{secret}, "1: a-long-line-of-it\n2:   another \\\"line\\\" of it\n3: end",
			"1: [hidden]\n2:   [hidden]\n3: end",
		},
		"of the environment": {
			Inputs{Environment: map[string]string{"A": secret}}, nil, "> a-long-line-of-it in the end", "> [hidden] in the end",
		},
		"of stdin, where more lines are no secrets": {
			Inputs{Stdin: &script}, nil, "unknown user haproxy\n12:    auth_pass (secret)", "unknown user haproxy\n12:    [hidden]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, test.want, test.inputs.Hider(test.secrets...)(test.text))
		})
	}
}

func TestAShortValueStaysAndALongerOneWinsOverItsPart(t *testing.T) {
	hide := (&Inputs{}).Hider("yes", "", "first-part", "first-part-and-more")
	assert.Equal(t, "yes, [hidden] [hidden]", hide("yes, first-part-and-more first-part"))
}

func TestAPrivateKeyThatTheCommandMadeIsHidden(t *testing.T) {
	const key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n-----END OPENSSH PRIVATE KEY-----"
	hide := (&Inputs{}).Hider()
	assert.Equal(t, "made [hidden]\nssh-ed25519 AAAA", hide("made "+key+"\nssh-ed25519 AAAA"))
	assert.Equal(t, `{"key": "[hidden]"}`, hide(`{"key": "`+strings.ReplaceAll(key, "\n", `\n`)+`"}`))
	assert.Equal(t, "made [hidden]", hide("made "+key[:45]), "cut off")
	assert.Equal(t, "-----BEGIN PUBLIC KEY-----", hide("-----BEGIN PUBLIC KEY-----"))
}

func TestAFailureHidesInTheCommandAndInItsOutput(t *testing.T) {
	hide := (&Inputs{}).Hider("uno\n\"dos\"")
	err := Failure(errors.New("status 1"), "echo 'uno\n\"dos\"'", "uno\n\"dos\"\n", hide)
	assert.Equal(t, "status 1: running \"echo '[hidden]'\":\n[hidden]\n", err.Error())
}
