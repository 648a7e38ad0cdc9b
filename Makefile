# SPDX-License-Identifier: GPL-2.0-or-later
#
# One Makefile for everything. `make help` lists the targets; `make V=1` shows the commands.
# Objects live in $(B) (build/ by default), so each sanitizer has a tree of its own.

B      ?= build
CC     ?= gcc
CFLAGS ?= -O2 -g
PREFIX ?= /usr/local
DESTDIR ?=

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' '$(1)' '$(2)';)

# PEERS: what only the benchmarks compare with
PACKAGES := build-essential pkg-config clang libclang-rt-dev clang-format libfuse3-dev fuse3 nbdkit nbdkit-plugin-dev \
	liblz4-dev libzstd-dev libxxhash-dev libssl-dev libjansson-dev libinih-dev libcap-dev libseccomp-dev libcmocka-dev \
	bats fio qemu-utils libnbd-bin nbd-client gnutls-bin mdadm dmsetup user-mode-linux kmod iproute2 jq attr acl \
	util-linux mount procps groff-base psmisc python3 cppcheck git rsync btrfs-progs libcap2-bin \
	nfs-kernel-server sshfs openssh-sftp-server rclone

pkg_cflags = $(shell pkg-config --cflags $(1) 2>/dev/null)
pkg_libs   = $(shell pkg-config --libs $(1) 2>/dev/null)

ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. -fPIC -fvisibility=hidden -pthread \
	-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes $(SAN) $(CFLAGS)
# tmemd's filter of system calls; without the library there is none, and its log says so.
ifeq ($(shell pkg-config --exists libseccomp && echo yes),yes)
ALL_CFLAGS += -DTM_HAS_SECCOMP
SECCOMP_LIBS = $(call pkg_libs,libseccomp)
endif
CRYPTO_LIBS = $(call pkg_libs,libcrypto)
CORE_LIBS  = $(call pkg_libs,liblz4 libzstd libxxhash jansson inih libcap) -lm

# --- what is built from what -----------------------------------------------------------------

CORE_SRC   := $(wildcard core/*.c)
UNIT_SRC   := $(wildcard tests/unit/test_*.c)
BENCH_SRC  := $(wildcard bench/*.c)
FUZZ_SRC   := $(wildcard tests/fuzz/*.c)
PRELOADS   := faultio umlregs
HELPER_SRC := $(filter-out $(PRELOADS:%=tests/helpers/%.c),$(wildcard tests/helpers/*.c))
TORTURE    := $(addprefix $(B)/tests/,fileops treeops racefiles)

obj = $(patsubst %.c,$(B)/obj/%.o,$(1))

TMEMD_OBJ  := $(call obj,$(wildcard tools/tmemd/*.c) tools/common/schema.c)
CTL_OBJ    := $(call obj,$(wildcard tools/tmemctl/*.c tools/common/*.c))
STAT_OBJ   := $(call obj,$(wildcard tools/tmemstat/*.c tools/common/*.c))
KEEP_OBJ   := $(call obj,$(wildcard tools/nbd-keep/*.c))
FS_OBJ     := $(call obj,$(wildcard tmemfs/*.c))
PLUGIN_OBJ := $(call obj,$(wildcard nbd-plugin/*.c))

PROGRAMS := $(if $(TMEMD_OBJ),$(B)/tmemd) $(if $(wildcard tools/tmemctl/*.c),$(B)/tmemctl) \
	$(if $(wildcard tools/tmemstat/*.c),$(B)/tmemstat) $(if $(KEEP_OBJ),$(B)/nbd-keep) $(if $(FS_OBJ),$(B)/tmemfs) \
	$(if $(PLUGIN_OBJ),$(B)/nbdkit-tmem-plugin.so)
UNIT     := $(patsubst tests/unit/%.c,$(B)/tests/%,$(UNIT_SRC))
HELPERS  := $(patsubst tests/helpers/%.c,$(B)/tests/%,$(HELPER_SRC)) $(PRELOADS:%=$(B)/tests/%.so) \
	$(TORTURE)
BENCHES  := $(patsubst bench/%.c,$(B)/bench/%,$(BENCH_SRC))

.PHONY: all help deps demo check check-builds check-asan check-tsan fuzzers check-long check-long-nbd check-long-fs check-vm-qemu tsan-fs bench bench-store bench-nbd bench-fs bench-host bench-system bench-trace asan tsan ubsan lint format install uninstall clean tests
.DELETE_ON_ERROR:
.SECONDARY:

all: $(PROGRAMS) ## build the programs into build/

tests: all $(UNIT) $(HELPERS) $(BENCHES)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(B)/obj/%.o: %.c Makefile
	$(call say,CC,$<)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) $(EXTRA_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/libtmem.a: $(call obj,$(CORE_SRC))
	$(call say,AR,$@)rm -f $@ && ar rcs $@ $^

link = $(call say,LINK,$@)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) $(1) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(2) $(CORE_LIBS)

$(FS_OBJ) $(B)/obj/nbd-plugin/mount.o $(call obj,$(BENCH_SRC)): EXTRA_CFLAGS = -DFUSE_USE_VERSION=314 $(call pkg_cflags,fuse3)
$(B)/tmemd: $(TMEMD_OBJ) $(B)/libtmem.a
	$(call link,,$(SECCOMP_LIBS))
$(B)/tmemctl: $(CTL_OBJ) $(B)/libtmem.a
	$(call link)
$(B)/tmemstat: $(STAT_OBJ) $(B)/libtmem.a
	$(call link)
$(B)/nbd-keep: $(KEEP_OBJ) # locked in memory, so without the libraries of the rest
	$(call say,LINK,$@)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) -o $@ $^
$(B)/tmemfs: $(FS_OBJ) $(B)/libtmem.a
	$(call link,,$(call pkg_libs,fuse3))
$(B)/nbdkit-tmem-plugin.so: $(PLUGIN_OBJ) $(B)/libtmem.a
	$(call link,-shared -Wl$(comma)--exclude-libs$(comma)ALL,$(CRYPTO_LIBS) $(call pkg_libs,fuse3))
$(B)/tests/%: $(B)/obj/tests/unit/%.o $(B)/libtmem.a
	$(call link,,-lcmocka $(CRYPTO_LIBS) $(SECCOMP_LIBS))
$(B)/tests/test_policy: $(B)/obj/tools/tmemd/policy.o
$(B)/tests/test_benefit: $(addprefix $(B)/obj/tools/tmemd/,benefit.o policy.o)
$(B)/tests/test_filter: $(B)/obj/tools/tmemd/filter.o
$(B)/tests/test_machine: $(addprefix $(B)/obj/tools/tmemd/,machine.o cgroup.o)
$(B)/tests/test_remote: $(B)/obj/tools/tmemd/pool.o
$(B)/tests/test_fallback: $(addprefix $(B)/obj/nbd-plugin/,fallback.o state.o crypt.o)
$(B)/tests/test_known: $(addprefix $(B)/obj/tmemfs/,known.o version.o)
$(B)/tests/test_readahead: $(B)/obj/tmemfs/readahead.o
$(B)/tests/test_scope: $(addprefix $(B)/obj/tmemfs/,scope.o version.o)
$(B)/tests/test_putq: $(B)/obj/tmemfs/putq.o
$(B)/tests/test_device $(B)/tests/test_elsewhere: $(filter-out %/plugin.o %/exports.o %/mount.o %/resident.o %/lastresort.o,$(PLUGIN_OBJ))
$(B)/tests/%: $(B)/obj/tests/helpers/%.o $(B)/libtmem.a
	$(call link)
$(B)/tests/%: $(B)/obj/tests/torture/%.o
	$(call say,LINK,$@)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) -o $@ $^
$(B)/tests/fileops: $(B)/obj/tests/torture/fileops_ops.o
$(B)/tests/treeops: $(addprefix $(B)/obj/tests/torture/,treeops_ops.o treeops_compare.o)
$(B)/fuzz/%: $(B)/obj/tests/fuzz/%.o $(B)/libtmem.a # libFuzzer, see fuzzers
	$(call link,-fsanitize=fuzzer)
$(B)/fuzz/curve: $(addprefix $(B)/obj/tools/tmemd/,benefit.o policy.o)
$(B)/fuzz/protocol: $(filter-out %/main.o,$(TMEMD_OBJ))
$(PRELOADS:%=$(B)/tests/%.so): $(B)/tests/%.so: $(B)/obj/tests/helpers/%.o
	$(call link,-shared)
$(B)/bench/together: $(addprefix $(B)/obj/tools/tmemd/,policy.o benefit.o)
$(B)/bench/host: $(addprefix $(B)/obj/tools/tmemd/,machine.o cgroup.o)
$(B)/bench/%: $(B)/obj/bench/%.o $(B)/libtmem.a
	$(call link,,$(call pkg_libs,fuse3))

comma := ,
-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)

# --- set-up and the two commands -------------------------------------------------------------

# Asks apt only for what is missing, so that a second run needs no network.
deps: ## install the Debian packages that build and tests need (elsewhere: print their names)
	@if ! command -v apt-get >/dev/null; then \
		echo "Install what your distribution calls these: $(PACKAGES)"; \
	else \
		missing=$$(for p in $(PACKAGES) $(PEERS); do \
			dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
		if [ -n "$$missing" ]; then \
			echo "installing:" $$missing; \
			export DEBIAN_FRONTEND=noninteractive; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
		fi; \
	fi

demo: deps ## see it work: DIR=/your/slow/dir KEEP=1 (needs root)
	$(Q)$(MAKE) --no-print-directory all $(B)/bench/slowfs $(B)/tests/memhog
	$(Q)DIR="$(DIR)" KEEP="$(KEEP)" B="$(B)" tools/demo

check: deps ## build and pass every test (needs root for mounts and swap)
	$(Q)$(MAKE) --no-print-directory -j$$(nproc) check-builds
	$(Q)tests/run

check-long: deps check-long-nbd check-long-fs ## two hours more: kills and stalls under load, fuzzing, mixed load under ASan, millions of operations on files

check-long-nbd: # 200 kills under load, ten minutes of hosts that stop and go, ten for each fuzzer
	$(Q)$(MAKE) --no-print-directory tests fuzzers
	$(Q)KILLS=200 SOAK=600 tests/run bats tests/bats/kill.bats
	$(Q)FUZZ_SECONDS=600 tests/run fuzz
	$(Q)SESSIONS=200000 tests/run bats tests/bats/security.bats
	$(Q)$(MAKE) --no-print-directory B=build/asan SAN='$(ASAN)' tests
	$(Q)TM_BUILD=$(CURDIR)/build/asan ASAN_OPTIONS=quarantine_size_mb=1 SOAK=1800 bats -f 'mixed load' tests/bats/security.bats

check-long-fs: # torture.bats with millions of operations and ten minutes for each race
	$(Q)$(MAKE) --no-print-directory tests tsan-fs
	$(Q)FILEOPS=750000 TREEOPS=300000 RACE=600 SQLITE=2000 LOOKUPS=1000000 FIO=256M \
		tests/run bats tests/bats/torture.bats

# A pause is longer where every instruction is emulated.
check-vm-qemu: ## exhaustion and kills again, with Debian's kernel on an emulated PC (slow)
	$(Q)$(MAKE) --no-print-directory deps PEERS='qemu-system-x86 linux-image-amd64 busybox-static cpio'
	$(Q)$(MAKE) --no-print-directory tests
	$(Q)for c in fallback connections discard frozen shrink; do \
		PAUSE=30 VM_MEM=400M tests/vm/qemu tests/vm/exhaust $$c || exit 1; done
	$(Q)PAUSE=30 VM_MEM=600M tests/vm/qemu tests/vm/kill swap 5
	$(Q)VM_MEM=600M tests/vm/qemu tests/vm/kill fio 10

# libFuzzer is clang's. tests/run gives each target FUZZ_SECONDS.
fuzzers: ## build the fuzzers: FUZZ_SECONDS=60 tests/run fuzz
	$(Q)$(MAKE) --no-print-directory B=build/fuzz CC=clang SAN='$(FUZZ)' $(patsubst tests/fuzz/%.c,build/fuzz/fuzz/%,$(FUZZ_SRC))

# Every build that tests/run needs.
check-builds: tests fuzzers check-asan check-tsan
check-asan:
	$(Q)$(MAKE) --no-print-directory B=build/asan SAN='$(ASAN)' $(patsubst tests/unit/%.c,build/asan/tests/%,$(UNIT_SRC))
check-tsan:
	$(Q)$(MAKE) --no-print-directory B=build/tsan SAN='$(TSAN)' $(patsubst tests/unit/%.c,build/tsan/tests/%,$(UNIT_SRC)) build/tsan/tmemfs

bench: ## measure us beside the peers, in one run
	$(Q)$(MAKE) --no-print-directory deps PEERS='bindfs mergerfs rclone sqlite3 e2fsprogs'
	$(Q)$(MAKE) --no-print-directory tests
	$(Q)bench/run

bench-store: ## the store alone, beside the bare codec and zram: ROUNDS=3 MEGABYTES=512 (at most 10 minutes)
	$(Q)$(MAKE) --no-print-directory deps PEERS=sqlite3
	$(Q)$(MAKE) --no-print-directory $(B)/bench/store $(B)/bench/storeload $(B)/bench/heapdump
	$(Q)bench/bench-store

bench-nbd: ## the swap device alone, beside nbdkit's memory and zram: ROUNDS=5 SECONDS_EACH=2
	$(Q)$(MAKE) --no-print-directory deps
	$(Q)$(MAKE) --no-print-directory tests
	$(Q)bench/bench-nbd
	$(Q)ROUNDS=1 bench/bench-system devices

bench-system: ## a compiler that needs 1.5 times its memory, with us, zram or a disk as swap
	$(Q)$(MAKE) --no-print-directory deps
	$(Q)$(MAKE) --no-print-directory tests
	$(Q)bench/bench-system own compile

bench-fs: ## the mount alone, beside bindfs, mergerfs, libfuse and rclone: ROUNDS=3 FILES=8000 (at most 15 minutes)
	$(Q)$(MAKE) --no-print-directory deps PEERS='bindfs mergerfs rclone sqlite3 e2fsprogs'
	$(Q)$(MAKE) --no-print-directory all $(B)/bench/slowfs $(B)/bench/store $(B)/bench/heapdump
	$(Q)bench/bench-fs

bench-host: ## memory that is needed elsewhere, demands, idle cost of tmemd: ROUNDS=3
	$(Q)$(MAKE) --no-print-directory deps
	$(Q)$(MAKE) --no-print-directory tests
	$(Q)bench/bench-host

bench-trace: deps ## miss ratios on recorded block traces: TRACES=/their/directory
	$(Q)$(MAKE) --no-print-directory $(B)/bench/trace $(B)/bench/together $(B)/bench/dense
	$(Q)B="$(B)" bench/bench-trace $(TRACES)

# --- sanitizers and lint ---------------------------------------------------------------------

ASAN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FUZZ := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
UBSAN := -fsanitize=undefined -fno-sanitize-recover=all
TSAN := -fsanitize=thread

asan: ## build under AddressSanitizer + UBSan and run the unit tests
	$(Q)$(MAKE) --no-print-directory B=build/asan SAN='$(ASAN)' tests
	$(Q)tests/run unit asan
ubsan: ## the same under UBSan alone
	$(Q)$(MAKE) --no-print-directory B=build/ubsan SAN='$(UBSAN)' tests
	$(Q)tests/run unit ubsan
tsan: ## the same under ThreadSanitizer
	$(Q)$(MAKE) --no-print-directory B=build/tsan SAN='$(TSAN)' tests
	$(Q)tests/run unit tsan

tsan-fs: # the file system that torture.bats watches for races
	$(Q)$(MAKE) --no-print-directory B=build/tsan SAN='$(TSAN)' build/tsan/tmemfs

SOURCES = $(shell git ls-files -co --exclude-standard '*.c' '*.h')

lint: ## layers, formatting, cppcheck, both compilers
	$(Q)tests/lint-layers
	$(Q)clang-format --dry-run -Werror $(SOURCES)
	$(Q)cppcheck --quiet --std=c11 --inline-suppr --error-exitcode=1 -I. \
		--enable=warning,performance,portability --suppress=missingIncludeSystem --suppress=internalAstError core tmemfs nbd-plugin tools
	$(Q)$(MAKE) --no-print-directory B=build/clang CC=clang CFLAGS='-O1 -g -Werror' tests
	$(Q)$(MAKE) --no-print-directory B=build/gcc-werror CC=gcc CFLAGS='-O2 -g -Werror' tests
	$(Q)tests/lint-symbols build/gcc-werror

format: ## rewrite the sources with clang-format
	$(Q)clang-format -i $(SOURCES)

# --- install ---------------------------------------------------------------------------------

BIN  = $(DESTDIR)$(PREFIX)/bin
SBIN = $(DESTDIR)$(PREFIX)/sbin
SHARE = $(DESTDIR)$(PREFIX)/share
MAN  = $(SHARE)/man
UNITDIR ?= $(PREFIX)/lib/systemd/system
PLUGINDIR ?= $(shell pkg-config --variable=plugindir nbdkit 2>/dev/null)

install: all ## install below DESTDIR and PREFIX
	install -d $(BIN) $(SBIN) $(MAN)/man1 $(MAN)/man7 $(MAN)/man8 $(DESTDIR)$(PLUGINDIR)
	install -m 755 $(B)/tmemfs $(B)/tmemctl $(B)/tmemstat $(BIN)
	install -m 755 $(B)/tmemd $(B)/nbd-keep $(SBIN)
	ln -sf ../bin/tmemfs $(SBIN)/mount.fuse.tmemfs
	install -m 755 $(B)/nbdkit-tmem-plugin.so $(DESTDIR)$(PLUGINDIR)
	install -m 644 $(wildcard man/*.1) $(MAN)/man1
	install -m 644 $(wildcard man/*.7) $(MAN)/man7
	install -m 644 $(wildcard man/*.8) $(MAN)/man8
	install -d $(DESTDIR)$(UNITDIR) $(SHARE)/doc/tmem $(SHARE)/bash-completion/completions \
		$(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	install -m 644 etc/*.service $(DESTDIR)$(UNITDIR)
	install -m 644 README.md etc/tmemd.conf etc/fstab.example docs/*.md $(SHARE)/doc/tmem
	install -m 644 etc/completion/tmemctl.bash $(SHARE)/bash-completion/completions/tmemctl
	ln -sf tmemctl $(SHARE)/bash-completion/completions/tmemstat
	install -m 644 etc/completion/_tmemctl $(SHARE)/zsh/site-functions
	install -m 644 etc/completion/tmemctl.fish $(SHARE)/fish/vendor_completions.d
	ln -sf tmemctl.fish $(SHARE)/fish/vendor_completions.d/tmemstat.fish

uninstall: ## remove what install put below DESTDIR and PREFIX
	$(Q)list=$$(mktemp -d) && trap 'rm -rf "$$list"' EXIT && $(MAKE) -s install DESTDIR="$$list" && \
		(cd "$$list" && find . ! -type d -printf '%P\n') | while read -r f; do rm -f "$(DESTDIR)/$$f"; done; rmdir "$(SHARE)/doc/tmem" 2>/dev/null || true

clean: ## remove build/
	rm -rf build
