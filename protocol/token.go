// Tokens: any string as one token of a NATS subject or of a bucket's key.

package protocol

import (
	"fmt"
	"strings"
)

const upperHex = "0123456789ABCDEF"

// emptyToken stands for the empty string: an escape mark with nothing behind it, which no other string becomes.
const emptyToken = "="

// EscapeToken writes s as one token that is valid in a NATS subject and in a key of a key-value bucket (ADR-8: letters,
// digits and "-/_=."). Letters, digits, "-", "/" and "_" stand for themselves, except for a leading "_", since keys that
// begin with "_kv" are reserved; each other byte becomes "=" and two upper-case hex digits. Different strings have
// different tokens, whatever bytes they hold.
func EscapeToken(s string) string {
	if s == "" {
		return emptyToken
	}
	var token strings.Builder
	token.Grow(len(s))
	for i := range len(s) {
		if plainInToken(s[i], i) {
			token.WriteByte(s[i])
			continue
		}
		token.WriteByte('=')
		token.WriteByte(upperHex[s[i]>>4])
		token.WriteByte(upperHex[s[i]&0x0f])
	}
	return token.String()
}

// UnescapeToken is the string whose token EscapeToken makes. What EscapeToken never makes is an error, so that one string
// has one token only.
func UnescapeToken(token string) (string, error) {
	if token == emptyToken {
		return "", nil
	}
	var s strings.Builder
	s.Grow(len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		if c == '=' {
			high, low := -1, -1
			if i+2 < len(token) {
				high, low = strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
			}
			if high < 0 || low < 0 {
				return "", Usagef("token %q: \"=\" at byte %d is not followed by two upper-case hex digits", token, i)
			}
			c = byte(high<<4 | low) //nolint:gosec // both are below 16
			if plainInToken(c, s.Len()) {
				return "", Usagef("token %q: %q at byte %d needs no escape", token, string(rune(c)), i)
			}
			i += 2
		} else if !plainInToken(c, s.Len()) {
			return "", Usagef("token %q: the byte 0x%02x at %d must be escaped", token, c, i)
		}
		s.WriteByte(c)
	}
	if s.Len() == 0 {
		return "", fmt.Errorf("an empty token: %w", Usagef("the empty string is written %q", emptyToken))
	}
	return s.String(), nil
}

// plainInToken tells whether c stands for itself at the given place of the unescaped string.
func plainInToken(c byte, place int) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '/':
		return true
	case c == '_':
		return place > 0
	}
	return false
}
