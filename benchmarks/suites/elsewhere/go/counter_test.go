// A suite as many are: every test has a server, all on the port that its author happened to like.
package counter

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

const address = "127.0.0.1:8081"

func serve(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	server := &http.Server{Handler: http.HandlerFunc(
		func(response http.ResponseWriter, request *http.Request) {
			count++
			fmt.Fprint(response, count)
		})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
}

func ask(t *testing.T) string {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func check(t *testing.T, until int) {
	serve(t)
	for expected := 1; expected <= until; expected++ {
		if got := ask(t); got != fmt.Sprint(expected) {
			t.Fatalf("counted %s, not %d", got, expected)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestCountsToOne(t *testing.T)    { check(t, 1) }
func TestCountsToFive(t *testing.T)   { check(t, 5) }
func TestCountsToTen(t *testing.T)    { check(t, 10) }
func TestCountsToTwenty(t *testing.T) { check(t, 20) }
