package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// sshServer is an SSH server on loopback that runs the commands it receives with /bin/sh and forwards connections, as a
// host and a bastion do.
type sshServer struct {
	Port      int
	User      string
	Key       string // the private key with which to log in
	Password  string // the password with which to log in
	HostKeys  []ssh.Signer
	AcceptEnv []string

	Connections atomic.Int32 // opened, logged in or not
	Forwarded   atomic.Int32 // forwarded to another host
	mu          sync.Mutex
	commands    []string // that were run
}

// newServer returns a server with one ed25519 host key that does not listen yet.
func newServer(t *testing.T) *sshServer {
	t.Helper()
	return &sshServer{
		User:     "debian",
		Key:      privateKeyPEM(t, newEd25519(t)),
		Password: "a-password-nobody-guesses",
		HostKeys: []ssh.Signer{newSigner(t, newEd25519(t))},
	}
}

// Start makes the server listen until the test ends, on s.Port, or on any port if that is 0.
func (s *sshServer) Start(t *testing.T) *sshServer {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	s.Port = listener.Addr().(*net.TCPAddr).Port

	allowed, err := ssh.ParsePrivateKey([]byte(s.Key))
	require.NoError(t, err)
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if meta.User() == s.User && string(key.Marshal()) == string(allowed.PublicKey().Marshal()) {
				return &ssh.Permissions{}, nil
			}
			return nil, errors.New("unknown key")
		},
		PasswordCallback: func(meta ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if meta.User() == s.User && string(password) == s.Password {
				return &ssh.Permissions{}, nil
			}
			return nil, errors.New("wrong password")
		},
	}
	for _, key := range s.HostKeys {
		config.AddHostKey(key)
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			s.Connections.Add(1)
			go s.serve(connection, config)
		}
	}()
	return s
}

// Commands are the commands that were run, in order.
func (s *sshServer) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

func (s *sshServer) serve(connection net.Conn, config *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(connection, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for channel := range channels {
		switch channel.ChannelType() {
		case "session":
			go s.session(channel)
		case "direct-tcpip":
			go s.forward(channel)
		default:
			_ = channel.Reject(ssh.UnknownChannelType, "")
		}
	}
}

func (s *sshServer) session(newChannel ssh.NewChannel) {
	channel, requests, err := newChannel.Accept()
	if err != nil {
		return
	}
	environment := os.Environ()
	for request := range requests {
		switch request.Type {
		case "env":
			var variable struct{ Name, Value string }
			ok := ssh.Unmarshal(request.Payload, &variable) == nil && slices.Contains(s.AcceptEnv, variable.Name)
			if ok {
				environment = append(environment, variable.Name+"="+variable.Value)
			}
			_ = request.Reply(ok, nil)
		case "exec":
			var command struct{ Line string }
			_ = request.Reply(ssh.Unmarshal(request.Payload, &command) == nil, nil)
			go s.run(channel, command.Line, environment)
		default:
			_ = request.Reply(false, nil)
		}
	}
}

func (s *sshServer) run(channel ssh.Channel, line string, environment []string) {
	s.mu.Lock()
	s.commands = append(s.commands, line)
	s.mu.Unlock()
	process := exec.Command("/bin/sh", "-c", line)
	process.Env = environment
	process.Stdin, process.Stdout, process.Stderr = channel, channel, channel.Stderr()
	process.WaitDelay = 100 * time.Millisecond // the client keeps its side of stdin open
	err := process.Run()
	status := make([]byte, 4)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		binary.BigEndian.PutUint32(status, uint32(exit.ExitCode()))
	}
	_, _ = channel.SendRequest("exit-status", false, status)
	_ = channel.Close()
}

func (s *sshServer) forward(newChannel ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	_ = ssh.Unmarshal(newChannel.ExtraData(), &to)
	target, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		_ = newChannel.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	s.Forwarded.Add(1)
	channel, requests, err := newChannel.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	go func() {
		_, _ = io.Copy(target, channel)
		_ = target.Close()
	}()
	_, _ = io.Copy(channel, target)
	_ = channel.Close()
}

// relay passes connections on to a server, until that seems to have died without a word.
type relay struct {
	Port   int
	silent atomic.Bool
}

func newRelay(t *testing.T, server *sshServer) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	r := &relay{Port: listener.Addr().(*net.TCPAddr).Port}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			target, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port)))
			if err != nil {
				return
			}
			go r.pass(client, target)
			go r.pass(target, client)
		}
	}()
	return r
}

// Silence keeps all connections, those to come as well, and passes nothing on any more.
func (r *relay) Silence() { r.silent.Store(true) }

func (r *relay) pass(from, to net.Conn) {
	buffer := make([]byte, 1<<16)
	for {
		size, err := from.Read(buffer)
		if err != nil {
			return
		}
		if !r.silent.Load() {
			_, _ = to.Write(buffer[:size])
		}
	}
}

func newEd25519(t *testing.T) crypto.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return key
}

func newECDSA(t *testing.T) crypto.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func newRSA(t *testing.T) crypto.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return key
}

func newSigner(t *testing.T, key crypto.PrivateKey) ssh.Signer {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(key)
	require.NoError(t, err)
	return signer
}

func privateKeyPEM(t *testing.T, key crypto.PrivateKey) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	require.NoError(t, err)
	return string(pem.EncodeToMemory(block))
}

func encryptedKeyPEM(t *testing.T, key crypto.PrivateKey, password string) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(password))
	require.NoError(t, err)
	return string(pem.EncodeToMemory(block))
}

// authorizedKey is the public half of key as a line of authorized_keys, the format of hostKey.
func authorizedKey(key ssh.Signer) string {
	return string(ssh.MarshalAuthorizedKey(key.PublicKey()))
}

// silentPort is a port that accepts connections and never sends anything.
func silentPort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().(*net.TCPAddr).Port // the kernel accepts for us
}

// freePort is a port on which nothing listens.
func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
