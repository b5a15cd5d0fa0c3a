# Builds the fork: upstream Darknet (fetched, verified, never copied into this repository) plus src/, plugins/ and
# darknet/. `make help` lists the targets and variables.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

# ---- What a user may set ---------------------------------------------------------------------------------------

DEPS ?= yes
PREFIX ?= /usr/local
SANITIZE ?=
CPU ?= $(if $(CROSS),$(CPU_$(CROSS)),native)
ARCH ?= $(HOST_ARCH)
V ?= 0
TESTS ?= $(TEST_FOLDERS)
BENCH ?= training inference layers kernels transport scheduler
BENCH_ARGS ?=
TEST_TIMEOUT_S ?= 1200
# Of the emulated shelf. CORE_GFLOPS: what one core of this machine does, measured when empty.
N ?= 7
PROFILE ?= pi3
CORE_GFLOPS ?=
I ?= 1
CMD ?= true
OPTIONS ?=

# As many jobs as there are cores, but at most one per 700 MB of memory (a Pi 3 has 1 GB). `make -jN` overrides.
JOBS ?= $(shell awk -v cores="$$(nproc)" '/^MemTotal/ { fit = int($$2 / 700000); print fit < 1 ? 1 : fit < cores ? fit : cores }' /proc/meminfo)
ifeq ($(filter -j% --jobserver%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(JOBS)
endif

# Debian's names of architectures. For another than this machine's everything is made under build/$(ARCH), by Debian's cross
# compiler and from libraries that darknet/upstream/sysroot.sh unpacks there.
HOST_ARCH := $(or $(shell dpkg --print-architecture 2>/dev/null),$(shell uname -m))
TRIPLET_arm64 := aarch64-linux-gnu
TRIPLET_armhf := arm-linux-gnueabihf
# The oldest processor: any of 64 bits; of 32 bits the Pi 2's, since Debian's own choice has no vectors.
CPU_arm64 := generic
CPU_armhf := cortex-a7
EMULATOR_arm64 := qemu-aarch64-static
EMULATOR_armhf := qemu-arm-static
CROSS := $(filter-out $(HOST_ARCH),$(ARCH))
TRIPLET := $(TRIPLET_$(CROSS))
ifneq ($(CROSS),)
ifeq ($(TRIPLET),)
$(error ARCH=$(ARCH): this builds for $(HOST_ARCH) and, by cross compiler, for arm64 and armhf. A processor is chosen with CPU=)
endif
endif

comma := ,
DOWNLOADS := build
TOP := $(DOWNLOADS)$(CROSS:%=/%)
BUILD := $(TOP)$(if $(SANITIZE),/sanitize-$(subst $(comma),-,$(SANITIZE)))
UPSTREAM := $(if $(DARKNET_SRC),$(abspath $(DARKNET_SRC)),$(DOWNLOADS)/upstream)
PROGRAM := $(BUILD)/darknet
PROGRAMS = $(PROGRAM) $(patsubst darknet/commands/%_main.cpp,$(BUILD)/darknet-%,$(filter %_main.cpp,$(MAIN_SOURCES)))
STOCK_PROGRAM := $(TOP)/stock/darknet
STOCK_O2_PROGRAM := $(TOP)/stock-O2/darknet

.DEFAULT_GOAL := all
.PHONY: all test test-arm64 test-armhf kernel-tests check check-format check-tidy check-tree tables stock bench bench-shelf demo experiments-gkt examples install clean distclean \
  help format cluster-up cluster-down cluster-exec cluster-stats cluster-set cluster-cut cluster-heal

help:
	@printf '%s\n' \
	  'make            install missing Debian packages, fetch upstream, build $(PROGRAM)' \
	  'make test       build and run all tests (TESTS="unit equivalence" picks folders of tests/)' \
	  'make check      format, clang-tidy (of what changed), shell scripts, include rules, tables that are made from the code' \
	  'make tables     write those tables again' \
	  'make test-arm64 cross-build the kernels and their tests and run them under qemu (or test-armhf)' \
	  'make demo       train and show the example in examples/shapes' \
	  'make experiments-gkt   knowledge transfer between small and large networks against its baselines, on Fashion-MNIST' \
	  'make bench      build and run the benchmarks in tests/bench (BENCH="training layers" picks programs, BENCH_ARGS=--quick)' \
	  'make cluster-up N=7 PROFILE=pi3   emulate a shelf of Raspberry Pis here (root; tests/bench/shelf/README.md); then' \
  '                cluster-exec I=1 CMD=..., cluster-set I=1 OPTIONS=..., cluster-cut I=1, cluster-heal I=1, cluster-stats, cluster-down' \
  'make bench-shelf BENCH_ARGS=...   training on that shelf: one device alone and 2, 4, 6 workers, side by side' \
  'make stock      build upstream as it is (OpenMP, -Ofast) as $(STOCK_PROGRAM)' \
	  'make install    put darknet and darknet-worker into $$(DESTDIR)$$(PREFIX)/bin, darknet-video.so into lib (PREFIX=/usr/local)' \
	  'make format     run clang-format over our sources' \
	  'make clean      remove everything built; distclean removes the downloaded upstream too' \
	  '' \
	  'DEPS=no         do not install packages' \
	  'DARKNET_SRC=dir use this unpacked upstream tree instead of fetching one' \
	  'CPU=name        compile for this processor (default native: the machine that builds; generic: any of its kind)' \
	  'ARCH=arm64      cross-build under build/arm64 (or armhf)' \
	  'SANITIZE=list   build all, upstream included, with these sanitizers, e.g. address,undefined, under build/sanitize-…' \
	  'V=1             show the commands'

clean:
	@rm -rf $(filter-out $(DOWNLOADS)/download $(DOWNLOADS)/upstream $(TOP)/sysroot,$(wildcard $(TOP)/* $(TOP)/.packages*))

distclean:
	@rm -rf $(DOWNLOADS)

OUR_FILES = $(shell find src plugins darknet tests examples -name '*.cpp' -o -name '*.hpp')
format:
	@clang-format -i $(OUR_FILES)

SHELF_SCRIPT := tests/bench/shelf/shelf.sh
cluster-down:
	@$(SHELF_SCRIPT) down
cluster-exec:
	@$(SHELF_SCRIPT) exec $(I) $(CMD)
cluster-set:
	@$(SHELF_SCRIPT) set $(I) $(OPTIONS)
cluster-cut cluster-heal: cluster-%:
	@$(SHELF_SCRIPT) $* $(I)
cluster-stats:
	@$(SHELF_SCRIPT) stats

test-arm64 test-armhf: test-%:
	@$(MAKE) --no-print-directory ARCH=$* kernel-tests

# ---- Packages, upstream's source, configuration ----------------------------------------------------------------
# These are made while make reads config.mk, because what comes below depends on which files and libraries exist;
# make then starts over with what they brought.

NEEDS_CONFIG := $(filter-out help clean distclean format test-arm64 test-armhf cluster-down cluster-exec cluster-stats cluster-set cluster-cut cluster-heal,$(or $(MAKECMDGOALS),all))

ifneq ($(NEEDS_CONFIG),)
include $(TOP)/config.mk

# Looked at again whenever the set of installed packages changes.
$(TOP)/.packages-%: darknet/upstream/packages darknet/upstream/install_packages.sh $(wildcard /var/lib/dpkg/status)
	@mkdir -p $(@D)
	@darknet/upstream/install_packages.sh $*
	@touch $@

packages = $(if $(filter no,$(DEPS)),,$(TOP)/.packages-$1)

ifneq ($(CROSS),)
SYSROOT := $(abspath $(TOP)/sysroot)
# Its C library is the cross compiler's own, whose headers go first.
override CXX := $(TRIPLET)-g++ -idirafter $(SYSROOT)/usr/include -idirafter $(SYSROOT)/usr/include/$(TRIPLET)
override CC := $(TRIPLET)-gcc
AR := $(TRIPLET)-ar
LD := $(TRIPLET)-ld
NM := $(TRIPLET)-nm
OBJCOPY := $(TRIPLET)-objcopy
OBJDUMP := $(TRIPLET)-objdump
SYSROOT_FOLDERS := $(addprefix $(SYSROOT)/usr/lib/$(TRIPLET),/openblas-pthread / /blas /lapack) $(SYSROOT)/lib/$(TRIPLET)
CROSS_LINK_FLAGS := $(SYSROOT_FOLDERS:%=-L%) $(SYSROOT_FOLDERS:%=-Wl,-rpath-link,%)
EMULATOR := $(EMULATOR_$(CROSS)) -L $(SYSROOT) -E TESSERA_TEST_CUT=20 -E LD_LIBRARY_PATH=$(SYSROOT)/usr/lib/$(TRIPLET)/openblas-pthread
$(TOP)/config.mk: export PKG_CONFIG_SYSROOT_DIR := $(SYSROOT)
$(TOP)/config.mk: export PKG_CONFIG_LIBDIR := $(SYSROOT)/usr/lib/$(TRIPLET)/pkgconfig:$(SYSROOT)/usr/lib/$(TRIPLET)/openblas-pthread/pkgconfig:$(SYSROOT)/usr/share/pkgconfig
$(TOP)/config.mk: $(TOP)/.sysroot
$(TOP)/.sysroot: darknet/upstream/sysroot.sh darknet/upstream/packages $(call packages,$(CROSS))
	@rm -rf $(SYSROOT)
	@echo '  unpacking libraries for $(CROSS) from Debian'
	@mkdir -p $(@D)
	@darknet/upstream/sysroot.sh $(CROSS) $(SYSROOT)
	@touch $@
endif

ifeq ($(DARKNET_SRC),)
$(DOWNLOADS)/upstream/.fetched: darknet/upstream/upstream.lock darknet/upstream/fetch.sh | $(call packages,build)
	@darknet/upstream/fetch.sh $(DOWNLOADS)/download $(DOWNLOADS)/upstream
	@touch $@
FETCHED := $(DOWNLOADS)/upstream/.fetched
else
ifeq ($(wildcard $(DARKNET_SRC)/include/darknet.h),)
$(error DARKNET_SRC=$(DARKNET_SRC) holds no include/darknet.h: give the directory of an unpacked upstream tree)
endif
endif

$(TOP)/config.mk: darknet/upstream/configure.sh $(FETCHED) $(call packages,build)
	@mkdir -p $(@D)
	@darknet/upstream/configure.sh '$(CXX)' >$@
endif

ifeq ($(CONFIGURED),yes)

# ---- Flags -----------------------------------------------------------------------------------------------------

MACHINE := $(shell $(CXX) -dumpmachine)
ifneq ($(filter-out generic,$(CPU)),)
ARCH_FLAGS := $(if $(filter x86_64-% i686-%,$(MACHINE)),-march=$(CPU),$(if $(filter aarch64-% arm-%,$(MACHINE)),-mcpu=$(CPU)))
endif
# GCC's name of a processor of 32 bits does not say that it has vectors.
ifeq ($(CROSS),armhf)
ARCH_FLAGS += -mfpu=neon-vfpv4
endif
SANITIZE_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)

# No fused multiply-add behind our back: machines of one cluster are built differently and must agree to the bit.
# The other two change no value, they only allow loops with sqrt and comparisons to be vectorised.
FLOAT_FLAGS := -ffp-contract=off -fno-math-errno -fno-trapping-math
COMMON_FLAGS := -g1 -pthread -D_FILE_OFFSET_BITS=64 $(ARCH_FLAGS) $(SANITIZE_FLAGS)

# The three that are off are false alarms of GCC 12 inside its own and fmt's headers (AVX-512, std::string, fmt::format).
WARNINGS := -Wall -Wextra -Werror=return-type -Wno-maybe-uninitialized -Wno-restrict -Wno-stringop-overflow
OUR_FLAGS := -std=c++20 -O3 $(COMMON_FLAGS) $(FLOAT_FLAGS) $(WARNINGS) -Isrc \
  $(LIBRARY_CPPFLAGS) $(BLAS_CPPFLAGS) $(OPENCV_CPPFLAGS) $(if $(SANITIZE),-fno-sanitize-recover=all)
# What may see Darknet's own structs: darknet/, plugins/ and tests/, but not src/.
DARKNET_FLAGS := -I. -DOPENCV -isystem $(UPSTREAM)/include
TEST_FLAGS := -O2
# For the few tests that name files of this tree.
TEST_PATHS := -DTESSERA_DARKNET='"$(abspath $(PROGRAM))"' -DTESSERA_STOCK_DARKNET='"$(abspath $(STOCK_PROGRAM))"' \
  -DTESSERA_SOURCE_ROOT='"$(CURDIR)"' -DTESSERA_UPSTREAM_ROOT='"$(abspath $(UPSTREAM))"' -DTESSERA_BUILD_DIR='"$(abspath $(BUILD))"'
# Upstream keeps strict IEEE arithmetic; -fexceptions lets our exceptions pass through its frames.
UPSTREAM_FLAGS := -std=gnu11 -O3 $(COMMON_FLAGS) -ffp-contract=off -fPIC -fexceptions -w -DOPENCV \
  -I$(UPSTREAM)/include -I$(UPSTREAM)/src -ffile-prefix-map=$(UPSTREAM)=upstream
# As upstream's own Makefile builds it with OPENMP=1 OPENCV=1, which brings -Ofast; and with -O2 instead, as distributions
# compile what they package.
STOCK_FLAGS := -std=gnu11 -fopenmp -fPIC -pthread -w -DOPENCV -I$(UPSTREAM)/include -I$(UPSTREAM)/src

LINK_FLAGS := -pthread $(SANITIZE_FLAGS) -Wl,--as-needed$(CROSS_LINK_FLAGS:%= %)
# Sanitizers want the type information of cv::VideoCapture, which is otherwise in darknet-video.so only.
LIBS := $(OPENCV_LIBS) $(LIBRARY_LIBS) $(BLAS_LIBS) $(ONEDNN_LIBS) $(if $(SANITIZE),$(VIDEO_LIBS))

# ---- Sources ---------------------------------------------------------------------------------------------------

find_sources = $(sort $(foreach folder,$1,$(shell find $(folder) -name '*.cpp' 2>/dev/null)))
to_objects = $(patsubst %.cpp,$(BUILD)/obj/%.o,$1)

# X_onednn.cpp and X_onednn_absent.cpp define the same symbols; the second is for machines without the library.
NOT_HERE := $(if $(filter yes,$(HAVE_ONEDNN)),%_onednn_absent.cpp,%_onednn.cpp)
TESSERA_SOURCES := $(filter-out $(NOT_HERE),$(call find_sources,src))
# darknet/commands/main.cpp is the program; x_main.cpp beside it is a program darknet-x beside it. One that does without OpenCV does
# not load it: the libraries for reading pictures cost every process that is linked to them about 45 MB and 0.08 s.
MAIN_SOURCES := darknet/commands/main.cpp $(wildcard darknet/commands/*_main.cpp)
FORK_SOURCES := $(filter-out $(MAIN_SOURCES) darknet/upstream/image_opencv.cpp darknet/upstream/video%,$(call find_sources,plugins darknet))
SUPPORT_SOURCES := $(call find_sources,tests/support)

TEST_FOLDERS := $(foreach folder,check unit equivalence cluster fault fuzz,$(if $(call find_sources,tests/$(folder)),$(folder)))
# One benchmark program per file; what they share is in support/.
BENCH_SOURCES := $(filter-out $(NOT_HERE),$(sort $(wildcard tests/bench/*.cpp)))
BENCH_SUPPORT_SOURCES := $(call find_sources,tests/bench/support)
EXAMPLE_SOURCES := $(wildcard examples/*/*.cpp)

# The examples that upstream's own program is made of.
UPSTREAM_EXAMPLES := art captcha cifar classifier coco darknet detector go instance-segmenter lsd nightmare regressor \
  rnn segmenter super tag yolo
UPSTREAM_UNITS := $(patsubst $(UPSTREAM)/%.c,%,$(sort $(wildcard $(UPSTREAM)/src/*.c))) $(addprefix examples/,$(UPSTREAM_EXAMPLES))
# compare.c is left out by upstream as well: it no longer compiles.
UPSTREAM_UNITS := $(filter-out src/compare,$(UPSTREAM_UNITS))

UPSTREAM_OBJECTS := $(UPSTREAM_UNITS:%=$(BUILD)/obj/upstream/%.o)
IMAGE_OBJECTS := $(BUILD)/obj/darknet/upstream/image_opencv.o $(BUILD)/obj/darknet/upstream/video.o
# Loaded by whoever shows windows or reads videos (darknet/upstream/video.hpp).
VIDEO_OBJECT := $(BUILD)/obj/darknet/upstream/video_opencv.o
VIDEO_LIBRARY := $(BUILD)/darknet-video.so

LIB_TESSERA := $(BUILD)/libtessera.a
LIB_FORK := $(BUILD)/libfork.a
LIB_DARKNET := $(BUILD)/libdarknet.a
LIB_ORACLE := $(BUILD)/liboracle.a
LIB_SUPPORT := $(BUILD)/tests/libsupport.a
LIB_BENCH := $(BUILD)/bench/libbench.a

# ---- Compiling -------------------------------------------------------------------------------------------------

# $(call remember,file,text): rewrites the file when the text differs, so that what depends on it is made again when
# flags change or a source file comes or goes.
remember = $(shell mkdir -p $(dir $1))$(file >$1.new,$2)$(shell cmp -s $1.new $1 && rm $1.new || mv $1.new $1)
$(call remember,$(BUILD)/obj/flags,$(CXX) $(OUR_FLAGS) $(DARKNET_FLAGS))
$(call remember,$(BUILD)/obj/test_flags,$(TEST_FLAGS) $(TEST_PATHS))
$(call remember,$(BUILD)/obj/upstream_flags,$(CC) $(UPSTREAM_FLAGS))
$(call remember,$(BUILD)/obj/link_flags,$(LINK_FLAGS) $(LIBS) $(VIDEO_LIBS))
$(call remember,$(BUILD)/obj/sources,$(TESSERA_SOURCES) $(FORK_SOURCES))
$(call remember,$(BUILD)/obj/test_sources,$(SUPPORT_SOURCES) $(foreach folder,$(TEST_FOLDERS),$(call find_sources,tests/$(folder))))
$(call remember,$(BUILD)/obj/bench_sources,$(BENCH_SUPPORT_SOURCES))
$(call remember,$(TOP)/stock/obj/flags,$(CC) -Ofast $(STOCK_FLAGS))
$(call remember,$(TOP)/stock-O2/obj/flags,$(CC) -O2 $(STOCK_FLAGS))

# $(call run,LABEL file,command)
run = @$(if $(filter 1,$(V)),,echo '  $1';) mkdir -p $(@D); $(if $(filter 1,$(V)),set -x;) $2

COMPILE = $(CXX) $(OUR_FLAGS) $(EXTRA_FLAGS) $(CXXFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/obj/%.o: %.cpp $(BUILD)/obj/flags
	$(call run,CXX     $<,$(COMPILE))

# Products of sums in registers; OpenBLAS's, which compute the other convolutions, are fused as well.
$(BUILD)/obj/src/kernels/winograd_product.o: EXTRA_FLAGS += -ffp-contract=fast

DARKNET_USERS := $(call to_objects,$(call find_sources,darknet plugins tests examples))
$(DARKNET_USERS): $(FETCHED)
$(DARKNET_USERS): EXTRA_FLAGS += $(DARKNET_FLAGS)
TEST_OBJECTS := $(call to_objects,$(call find_sources,tests))
$(TEST_OBJECTS): EXTRA_FLAGS += $(TEST_FLAGS)
$(TEST_OBJECTS): $(BUILD)/obj/test_flags
$(call to_objects,$(shell grep -rlE --include='*.cpp' 'TESSERA_[A-Z0-9_]*(ROOT|DIR|DARKNET)' tests)): EXTRA_FLAGS += $(TEST_PATHS)

# Upstream's main() stays callable under another name: our own main() hands it the commands we do not replace.
$(BUILD)/obj/upstream/examples/darknet.o: UPSTREAM_FLAGS += -Dmain=upstream_main
$(BUILD)/obj/upstream/%.o: $(UPSTREAM)/%.c $(BUILD)/obj/upstream_flags $(FETCHED)
	$(call run,CC      upstream/$*.c,$(CC) $(UPSTREAM_FLAGS) -MMD -MP -c $< -o $@)

# $(call stock_program,folder of build/,optimisation)
define stock_program
$(TOP)/$1/obj/%.o: $(UPSTREAM)/%.c $(TOP)/$1/obj/flags $(FETCHED)
	$$(call run,CC      $1/$$*.c,$(CC) $2 $(STOCK_FLAGS) -MMD -MP -c $$< -o $$@)
$(TOP)/$1/obj/%.o: darknet/upstream/%.cpp $(TOP)/$1/obj/flags
	$$(call run,CXX     $1/$$*.cpp,$(CXX) -std=c++20 -O3 -DOPENCV -I. -isystem $(UPSTREAM)/include $(OPENCV_CPPFLAGS) -MMD -MP -c $$< -o $$@)
$(TOP)/$1/darknet: $(UPSTREAM_UNITS:%=$(TOP)/$1/obj/%.o) $(addprefix $(TOP)/$1/obj/,image_opencv.o video.o video_opencv.o)
	$$(call run,LINK    $$@,$(CXX) $2 -fopenmp -pthread -o $$@ $$^ $(VIDEO_LIBS) $(OPENCV_LIBS) -lm)
endef
$(eval $(call stock_program,stock,-Ofast))
$(eval $(call stock_program,stock-O2,-O2))

-include $(shell find $(BUILD)/obj $(TOP)/stock/obj $(TOP)/stock-O2/obj -name '*.d' 2>/dev/null)

# ---- Libraries -------------------------------------------------------------------------------------------------

archive = $(call run,AR      $@,rm -f $@; $(AR) rcs $@ $(filter %.o,$^))

$(LIB_TESSERA): $(call to_objects,$(TESSERA_SOURCES)) $(BUILD)/obj/sources
	$(archive)
$(LIB_FORK): $(call to_objects,$(FORK_SOURCES)) $(BUILD)/obj/sources
	$(archive)
$(LIB_DARKNET): $(UPSTREAM_OBJECTS) $(IMAGE_OBJECTS)
	$(archive)
$(LIB_SUPPORT): $(call to_objects,$(SUPPORT_SOURCES)) $(BUILD)/obj/test_sources
	$(archive)

# The tests' oracle: upstream once more, every function f of it renamed to stock_f. So a test binary holds the fork with
# all its seams and, untouched by them, stock Darknet (tests/support/oracle.hpp).
$(LIB_ORACLE): $(UPSTREAM_OBJECTS)
	$(call run,ORACLE  $@,rm -f $@; $(LD) -r -o $@.all.o $^; \
	  $(NM) -g --defined-only $@.all.o | awk '{ print $$3 " stock_" $$3 }' >$@.names; \
	  $(OBJCOPY) --redefine-syms=$@.names $@.all.o $@.o; $(AR) rcs $@ $@.o; rm -f $@.all.o $@.o)
NM ?= nm
OBJCOPY ?= objcopy

# A function named __wrap_f in darknet/ or plugins/ is a seam: calls to upstream's f go to it, and it reaches upstream's
# as __real_f. The list is read from the objects, so that defining the function is all there is to do.
WRAP_SYMBOLS = $(shell $(NM) -g --defined-only $(LIB_FORK) 2>/dev/null | sed -n 's/^.* T __wrap_//p')
WRAP_FLAGS = $(WRAP_SYMBOLS:%=-Wl,--wrap=%)
START_GROUP := -Wl,--start-group
END_GROUP := -Wl,--end-group
link = $(call run,LINK    $@,$(CXX) $(LINK_FLAGS) $(LDFLAGS) $(WRAP_FLAGS) -o $@ $(filter %.o,$^) \
  $(START_GROUP) $(filter %.a,$^) $(END_GROUP) $(LIBS) $1 -lm)

# ---- Programs --------------------------------------------------------------------------------------------------

all: $(PROGRAMS) $(VIDEO_LIBRARY)

$(PROGRAM): $(BUILD)/obj/darknet/commands/main.o
# The others with it, since it starts them: one left over from an earlier build would be run.
$(PROGRAM): | $(filter-out $(PROGRAM),$(PROGRAMS)) $(VIDEO_LIBRARY)
$(filter-out $(PROGRAM),$(PROGRAMS)): $(BUILD)/darknet-%: $(BUILD)/obj/darknet/commands/%_main.o
$(PROGRAMS): $(LIB_FORK) $(LIB_TESSERA) $(LIB_DARKNET) $(BUILD)/obj/link_flags
	$(call link)

$(VIDEO_OBJECT): EXTRA_FLAGS += -fPIC
$(VIDEO_LIBRARY): $(VIDEO_OBJECT) $(BUILD)/obj/link_flags
	$(call run,LINK    $@,$(CXX) -shared $(LINK_FLAGS) $(LDFLAGS) -o $@ $< $(VIDEO_LIBS) $(OPENCV_LIBS))

stock: $(STOCK_PROGRAM)

EXAMPLES := $(EXAMPLE_SOURCES:%.cpp=$(BUILD)/%)
examples: $(EXAMPLES)
$(EXAMPLES): $(BUILD)/examples/%: $(BUILD)/obj/examples/%.o $(LIB_FORK) $(LIB_TESSERA) $(LIB_DARKNET) $(BUILD)/obj/link_flags
	$(call link)

demo: $(PROGRAMS) $(EXAMPLES)
	examples/shapes/run.sh

experiments-gkt: $(PROGRAMS) $(EXAMPLES)
	examples/fashion/experiments_gkt.sh

install: $(PROGRAMS) $(VIDEO_LIBRARY)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(VIDEO_LIBRARY) $(DESTDIR)$(PREFIX)/lib

# ---- Tests and benchmarks --------------------------------------------------------------------------------------

# One program per folder of tests/.
define test_program
$(BUILD)/tests/$1: $(call to_objects,$(call find_sources,tests/$1)) $(LIB_SUPPORT) $(LIB_FORK) $(LIB_TESSERA) $(LIB_DARKNET) \
  $(LIB_ORACLE) $(VIDEO_OBJECT) $(BUILD)/obj/link_flags $(BUILD)/obj/test_sources
	$$(call link,$(VIDEO_LIBS))
endef
$(foreach folder,$(filter-out check,$(TEST_FOLDERS)),$(eval $(call test_program,$(folder))))

test: $(TESTS:%=$(BUILD)/tests/%) $(PROGRAMS) $(STOCK_PROGRAM) $(EXAMPLES)
	@TESSERA_DARKNET=$(abspath $(PROGRAM)) tests/support/run_tests.sh $(TEST_TIMEOUT_S) $(TESTS:%=$(BUILD)/tests/%)

# ---- Checks ----------------------------------------------------------------------------------------------------

# As `make -k check` runs them all.
check: check-format check-tidy check-tree

check-format: | $(call packages,check)
	@clang-format --dry-run -Werror $(OUR_FILES)
	@shellcheck --severity=warning .ci/run $(shell find darknet tests examples -name '*.sh')

# Looked at again when a file, or one that it includes, has changed. clang has no __builtin_shuffle.
TIDY := $(patsubst %.cpp,$(BUILD)/check/%.tidy,$(filter-out $(NOT_HERE),$(call find_sources,src plugins darknet)))
TIDY_FLAGS = $(filter-out -W%,$(OUR_FLAGS)) $(if $(filter src/%,$<),,$(DARKNET_FLAGS))
check-tidy: $(TIDY)
$(TIDY): $(BUILD)/check/%.tidy: %.cpp .clang-tidy tests/check/nodiscard.hpp $(BUILD)/obj/flags $(FETCHED) | $(call packages,check)
	$(call run,TIDY    $<,$(CXX) $(TIDY_FLAGS) -MM -MP -MT $@ -MF $(@:.tidy=.d) $<; \
	  timeout 300 clang-tidy --quiet $< -- $(TIDY_FLAGS) '-D__builtin_shuffle(a,b,c)=(a)' -include tests/check/nodiscard.hpp 2>$@.log || { grep -v 'warnings generated' $@.log; exit 1; }; \
	  touch $@)
-include $(shell find $(BUILD)/check -name '*.d' 2>/dev/null)

# The include rules, and tables in documents against the code that they are made from; needs src/ only.
$(BUILD)/tests/check: WRAP_FLAGS =
$(BUILD)/tests/check: $(call to_objects,$(call find_sources,tests/check) tests/support/run.cpp) $(LIB_TESSERA) $(BUILD)/obj/test_sources
	$(call link)
check-tree: $(BUILD)/tests/check
	@$< --minimal
tables: $(BUILD)/tests/check
	@TESSERA_WRITE_TABLES=1 $< --minimal -tc='tables*'

# Kernels and geometry alone, as fast to build and to run under an emulator as that gets.
KERNEL_SOURCES := $(filter-out $(NOT_HERE),$(call find_sources,src/base src/geometry src/kernels))
KERNEL_TEST_SOURCES := tests/check/main.cpp tests/support/run.cpp $(call find_sources,tests/unit/geometry tests/unit/kernels)
$(BUILD)/tests/kernels: $(call to_objects,$(KERNEL_SOURCES) $(KERNEL_TEST_SOURCES)) $(BUILD)/obj/link_flags
	$(call run,LINK    $@,$(CXX) $(LINK_FLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIBRARY_LIBS) $(BLAS_LIBS) $(ONEDNN_LIBS) -lm)
OBJDUMP ?= objdump
kernel-tests: $(BUILD)/tests/kernels
	tests/support/check_vectors.sh $(OBJDUMP) $(BUILD)/obj/src/kernels
	$(EMULATOR) $(BUILD)/tests/kernels -m

BENCHES := $(BENCH_SOURCES:tests/bench/%.cpp=$(BUILD)/bench/%)
BENCH_OBJECTS := $(call to_objects,$(BENCH_SOURCES) $(BENCH_SUPPORT_SOURCES))
$(BENCH_OBJECTS): EXTRA_FLAGS += -DTESSERA_STOCK_O2_DARKNET='"$(abspath $(STOCK_O2_PROGRAM))"'
$(BENCH_OBJECTS): | $(call packages,bench)
$(LIB_BENCH): $(call to_objects,$(BENCH_SUPPORT_SOURCES)) $(BUILD)/obj/bench_sources
	$(archive)
$(BENCHES): $(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o $(LIB_BENCH) $(LIB_FORK) $(LIB_TESSERA) $(LIB_DARKNET) $(LIB_ORACLE) $(BUILD)/obj/link_flags
	$(call link,-lbenchmark)
bench: $(BENCHES) $(PROGRAMS) $(STOCK_PROGRAM) $(STOCK_O2_PROGRAM)
	tests/bench/run.sh $(BUILD)/bench "$(BENCH)" $(BENCH_ARGS)

cluster-up: $(if $(CORE_GFLOPS),,$(BUILD)/bench/training)
	@core=$(CORE_GFLOPS); [ -n "$$core" ] || core=$$($(BUILD)/bench/training --measure-sgemm --threads 1 | awk '{ print $$1 / 1e9 }'); \
	  echo "a core of this machine does $$core GFLOP/s (CORE_GFLOPS=... to say so yourself)"; \
	  $(SHELF_SCRIPT) up $(N) --profile $(PROFILE) --core-gflops $$core $(OPTIONS)
	@$(SHELF_SCRIPT) list
bench-shelf: $(PROGRAMS)
	@mkdir -p $(BUILD)/bench
	tests/bench/shelf/measure.py $(PROGRAM) cfg --json $(BUILD)/bench/shelf.json $(BENCH_ARGS)

endif
