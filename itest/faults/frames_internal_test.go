package faults

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFramesOfMessages(t *testing.T) {
	t.Parallel()
	const headers = "NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"
	wire := "INFO {\"a\": 1}\r\nPUB a.b 5\r\nhe\r\no\r\nPUB a.b _INBOX.1 0\r\n\r\nHPUB a _INBOX.2 32 34\r\n" + headers + "ab\r\n" +
		"MSG a.b 7 2\r\nok\r\nHMSG a 7 r 32 32\r\n" + headers + "\r\nPING\r\n"
	require.Len(t, headers, 32-1, "the sizes above")
	wire = strings.NewReplacer(" 32 34", " 31 33", " 32 32", " 31 31").Replace(wire)
	reader := bufio.NewReader(strings.NewReader(wire))
	var all []byte
	var found []string
	for {
		f, err := readFrame(reader)
		if err != nil {
			break
		}
		all = append(all, f.raw...)
		if f.subject != "" {
			found = append(found, f.subject+"|"+f.reply+"|"+string(f.payload())+"|"+f.header("kv-operation"))
		}
	}
	require.Equal(t, wire, string(all), "nothing is lost or added")
	require.Equal(t, []string{"a.b||he\r\no|", "a.b|_INBOX.1||", "a|_INBOX.2|ab|DEL", "a.b||ok|", "a|r||DEL"}, found)
}

// Whatever is on the wire, frames are what was there, in order.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("PUB a 1\r\nx\r\nPING\r\n"))
	f.Add([]byte("HMSG a 1 reply 12 14\r\nNATS/1.0\r\n\r\nab\r\n"))
	f.Add([]byte("HPUB a 9 1\r\nx\r\n"))
	f.Add([]byte("PUB a -1\r\n"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		reader := bufio.NewReader(bytes.NewReader(wire))
		var all []byte
		for {
			frame, err := readFrame(reader)
			if err != nil {
				break
			}
			if frame.subject != "" {
				_, _ = frame.payload(), frame.header("a")
			}
			all = append(all, frame.raw...)
		}
		require.True(t, bytes.HasPrefix(wire, all))
	})
}
