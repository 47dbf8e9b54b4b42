package itest_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver/natstest"
)

// atOnce is how many tests run at once, unless -parallel says otherwise.
const atOnce = 6

func isSet(name string) (found bool) {
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

func TestMain(m *testing.M) {
	if config := os.Getenv(serverVariable); config != "" {
		if err := beServer(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if !isSet("test.parallel") {
		// The tests wait most of the time, for leases, claims and elections, and for processes of which each has its own pace.
		if err := flag.Set("test.parallel", strconv.Itoa(max(atOnce, runtime.GOMAXPROCS(0)))); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m, append(natstest.StoreLeaks(), natstest.ClientLeak())...)
}
