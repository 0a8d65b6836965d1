/* A chat server without a model, for benchmarks/endpoint_client.py: mock_server TOKENS FIRST_US GAP_US [TAIL_US].

Streams TOKENS tokens to every request, as vLLM does: the first one FIRST_US after the request was read, further ones every GAP_US, the
usage and [DONE] TAIL_US after the last one; at 0 0 the whole answer in one write. Each token's text is the time at which it is sent, and
the first one's also the time at which the request was read (CLOCK_MONOTONIC, which is Python's perf_counter), so that an answer holds
what its client should have measured. Prints its port. Linux only.
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = 4096, MAX_REQUEST = 65536 };
#define HEAD "HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
#define EVENT "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock\",\"choices\":["
#define DELTA EVENT "{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,\"finish_reason\":%s}]}\n\n"
#define USAGE EVENT "],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":%d,\"completion_tokens\":%d}}\n\n"

struct connection { char in[MAX_REQUEST]; size_t used; int sent; int active; int64_t read_ns, due_ns; };
static struct connection *connections[MAX_FDS];
static int heap[MAX_FDS], num_waiting; /* descriptors by due_ns */
static int num_tokens, timer;
static int64_t first_ns, gap_ns, tail_ns;
static char whole[1 << 20];
static size_t whole_size;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static size_t chunk(char *out, const char *body) { return sprintf(out, "%zx\r\n%s\r\n", strlen(body), body); }

static size_t token(char *out, int64_t read_ns, int index) {
  char body[1024], text[64];
  int64_t now = now_ns();
  size_t used = index == 0 ? sprintf(text, "%.9f", read_ns / 1e9) : 0;
  sprintf(text + used, " %.9f", now / 1e9);
  sprintf(body, DELTA, text, index == num_tokens - 1 ? "\"length\"" : "null");
  return chunk(out, body);
}

static size_t end(char *out) {
  char body[1024];
  sprintf(body, USAGE, num_tokens + 8, num_tokens);
  size_t used = chunk(out, body);
  used += chunk(out + used, "data: [DONE]\n\n");
  memcpy(out + used, "0\r\n\r\n", 5);
  return used + 5;
}

static int before(int a, int b) { return connections[heap[a]]->due_ns < connections[heap[b]]->due_ns; }
static void swap(int a, int b) { int fd = heap[a]; heap[a] = heap[b]; heap[b] = fd; }

static void sink(int at) {
  for (;;) {
    int child = 2 * at + 1;
    if (child >= num_waiting) return;
    if (child + 1 < num_waiting && before(child + 1, child)) child++;
    if (!before(child, at)) return;
    swap(at, child);
    at = child;
  }
}

static void wait_until(int fd, int64_t due_ns) {
  connections[fd]->due_ns = due_ns;
  heap[num_waiting] = fd;
  for (int at = num_waiting++; at > 0 && before(at, (at - 1) / 2); at = (at - 1) / 2) swap(at, (at - 1) / 2);
}

static void forget(int fd) {
  for (int at = 0; at < num_waiting; at++)
    if (heap[at] == fd) {
      heap[at] = heap[--num_waiting];
      for (int parent = num_waiting / 2; parent >= 0; parent--) sink(parent);
      break;
    }
  free(connections[fd]);
  connections[fd] = NULL;
  close(fd);
}

static void put(int fd, const char *data, size_t size) {
  while (size) {
    ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return; /* the client has gone: its end of file follows */
    data += sent;
    size -= sent;
  }
}

/* Send what is due at the top of the heap. */
static void send_due(void) {
  char out[4096];
  int fd = heap[0];
  struct connection *c = connections[fd];
  size_t used = 0;
  if (c->sent == 0) used = sprintf(out, HEAD);
  if (c->sent < num_tokens) used += token(out + used, c->read_ns, c->sent++);
  else c->sent++;
  int over = c->sent > num_tokens || (c->sent == num_tokens && tail_ns == 0);
  if (over) used += end(out + used);
  put(fd, out, used);
  if (over) {
    c->active = 0;
    heap[0] = heap[--num_waiting];
  } else c->due_ns += c->sent == num_tokens ? tail_ns : gap_ns;
  sink(0);
}

static void answer(int fd, int is_post) {
  struct connection *c = connections[fd];
  if (!is_post) {
    static const char models[] = "HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: application/json\r\ncontent-length: 25\r\n\r\n{\"data\":[{\"id\":\"mock\"} ]}\n";
    put(fd, models, sizeof models - 1);
  } else if (first_ns == 0 && gap_ns == 0) put(fd, whole, whole_size);
  else {
    c->read_ns = now_ns();
    c->sent = 0;
    c->active = 1;
    wait_until(fd, c->read_ns + first_ns);
  }
}

/* Read a request; 0 where the client has gone. */
static int take(int fd) {
  struct connection *c = connections[fd];
  ssize_t got = recv(fd, c->in + c->used, MAX_REQUEST - 1 - c->used, 0);
  if (got <= 0) return 0;
  c->used += got;
  c->in[c->used] = 0;
  char *body = strstr(c->in, "\r\n\r\n");
  if (!body) return c->used < MAX_REQUEST - 1;
  char *length = strcasestr(c->in, "\r\ncontent-length:");
  size_t size = body + 4 - c->in + (length && length < body ? strtoul(length + 17, NULL, 10) : 0);
  if (c->used >= size) {
    c->used = 0;
    answer(fd, c->in[0] == 'P');
  }
  return size < MAX_REQUEST;
}

static void make_whole(void) {
  whole_size = sprintf(whole, HEAD);
  for (int i = 0; i < num_tokens; i++) {
    char body[1024];
    sprintf(body, DELTA, " token", i == num_tokens - 1 ? "\"length\"" : "null");
    whole_size += chunk(whole + whole_size, body);
  }
  whole_size += end(whole + whole_size);
}

static void set_timer(void) {
  struct itimerspec at = {0};
  if (num_waiting) {
    int64_t due = connections[heap[0]]->due_ns;
    at.it_value.tv_sec = due / 1000000000;
    at.it_value.tv_nsec = due % 1000000000;
  }
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

int main(int count, char **given) {
  num_tokens = count > 1 ? atoi(given[1]) : 0;
  if (count < 4 || num_tokens < 1 || num_tokens > 1000) {
    fprintf(stderr, "usage: mock_server TOKENS FIRST_US GAP_US [TAIL_US], 1 to 1000 tokens\n");
    return 2;
  }
  first_ns = atoll(given[2]) * 1000;
  gap_ns = atoll(given[3]) * 1000;
  tail_ns = count > 4 ? atoll(given[4]) * 1000 : 0;
  make_whole();
  int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) return perror("mock_server"), 1;
  getsockname(listener, (struct sockaddr *)&address, &size);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[256];
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  event.data.fd = timer;
  epoll_ctl(poll, EPOLL_CTL_ADD, timer, &event);
  for (;;) {
    int found = epoll_wait(poll, ready, 256, -1);
    for (int i = 0; i < found; i++) {
      int fd = ready[i].data.fd;
      if (fd == timer) {
        uint64_t ticks;
        if (read(timer, &ticks, 8) < 0) continue;
      } else if (fd == listener) {
        if ((fd = accept(listener, NULL, NULL)) < 0) continue;
        if (fd >= MAX_FDS) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connections[fd] = calloc(1, sizeof(struct connection));
        event.data.fd = fd;
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
      } else if (!take(fd)) forget(fd);
    }
    while (num_waiting && connections[heap[0]]->due_ns <= now_ns()) send_due();
    set_timer();
  }
}
