// A vCenter (or ESX) made of Debian's govmomi simulator library: the foreign server that our vSphere client is held to.
//
// Usage: govmomi-sim ADDRESS [vpx|esx]
//
// ADDRESS is host:port on loopback; port 0 picks a free one. The first line of output is "listening on HOST:PORT".
// Login is taken from SIM_USER and SIM_PASSWORD (both must be set) and never printed. SIGTERM or the end of standard input stops it.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
)

func main() {
	user, password := os.Getenv("SIM_USER"), os.Getenv("SIM_PASSWORD")
	if len(os.Args) < 2 || user == "" || password == "" {
		fmt.Fprintln(os.Stderr, "usage: SIM_USER=... SIM_PASSWORD=... govmomi-sim ADDRESS [vpx|esx]")
		os.Exit(2)
	}
	model := simulator.VPX()
	if len(os.Args) > 2 && os.Args[2] == "esx" {
		model = simulator.ESX()
	} else {
		model.Folder = 1 // datacenters inside folders, so that paths have more than one part
	}
	model.Machine = 3
	if err := model.Create(); err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
	defer model.Remove()

	// One VM with running tools, so that the searches by address and by name have something to find.
	vm := simulator.Map.Any("VirtualMachine").(*simulator.VirtualMachine)
	vm.Guest.IpAddress = "192.0.2.7"
	vm.Guest.HostName = "guest.example"
	vm.Summary.Guest.IpAddress = vm.Guest.IpAddress
	vm.Summary.Guest.HostName = vm.Guest.HostName

	model.Service.RegisterEndpoints = true
	model.Service.Listen = &url.URL{Host: os.Args[1], User: url.UserPassword(user, password)}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{certificate()}}
	server := model.Service.NewServer()
	defer server.Close()
	fmt.Println("listening on", server.URL.Host)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop <- syscall.SIGTERM
	}()
	<-stop
}

// A fresh self-signed certificate. The library's own has an RSA key of 1024 bits, which TLS libraries of today refuse.
func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	template := x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		DNSNames:     []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
