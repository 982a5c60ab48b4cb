/*
 * The CNI plugin as one static file: the interpreter, and the shim's modules compiled and packed into `program`.
 *
 * The interpreter is brought up only as far as its "core" phase (PEP 587, "Multi-Phase Initialization Private
 * Provisional API"): built-in types, built-in modules and frozen modules. What the main phase adds - a search path,
 * encodings, io, sys.stdin and its kin - the shim never uses, and it is a third of the start. For the same reason the
 * table of built-in modules below holds only what the core phase and the shim import, so that the linker takes no other.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "program.h" /* made by scripts/build_shim.py: static const unsigned char program[], importer[] */

extern PyObject *PyInit__imp(void), *PyInit__socket(void), *PyInit__thread(void), *PyInit__weakref(void);
extern PyObject *PyInit_posix(void), *PyInit_time(void), *PyMarshal_Init(void), *_PyWarnings_Init(void);

struct _inittab _PyImport_Inittab[] = {
    {"_imp", PyInit__imp},       {"_socket", PyInit__socket},     {"_thread", PyInit__thread},
    {"_warnings", _PyWarnings_Init}, {"_weakref", PyInit__weakref}, {"builtins", NULL},
    {"marshal", PyMarshal_Init}, {"posix", PyInit_posix},         {"sys", NULL},
    {"time", PyInit_time},       {NULL, NULL},
};

static const struct _frozen frozen[] = {{"__muslin__", program, (int)sizeof program, 0}, {NULL, NULL, 0, 0}};

#if PY_VERSION_HEX >> 16 == 0x030b
/*
 * The library's frozen modules - importlib, os, site and twenty others - are a megabyte whose strings are all interned
 * at each start. With these in the place of frozen.o and deepfreeze.o (Python 3.11, Python/frozen.c) neither is linked.
 */
struct _module_alias;
static const struct _frozen none[] = {{NULL, NULL, 0, 0, NULL}};
static const struct _frozen bootstrap[] = {{"_frozen_importlib", importer, (int)sizeof importer, 0, NULL},
                                           {NULL, NULL, 0, 0, NULL}};
static const char *const no_aliases[2];

const struct _frozen *_PyImport_FrozenBootstrap = bootstrap;
const struct _frozen *_PyImport_FrozenStdlib = none;
const struct _frozen *_PyImport_FrozenTest = none;
const struct _frozen *PyImport_FrozenModules;
const struct _module_alias *_PyImport_FrozenAliases = (const struct _module_alias *)no_aliases;
int _Py_Deepfreeze_Init(void) { return 0; }
void _Py_Deepfreeze_Fini(void) {}
#endif

/* What the runtime is told when not even Python comes up. */
static int defect(const char *what) {
    char text[512];
    int size = snprintf(text, sizeof text,
                        "{\"cniVersion\": \"1.1.0\", \"code\": 100, \"msg\": \"the interpreter in the plugin can not "
                        "start: %s\", \"details\": \"\"}\n", what);
    return write(STDOUT_FILENO, text, (size_t)size) == size ? 1 : 2;
}

static PyStatus start(void) {
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1; /* whatever LANG says, or that there is none */
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status)) return status;

    PyImport_FrozenModules = frozen;
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config._init_main = 0;
    config.site_import = 0;
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    config.pathconfig_warnings = 0;
    config.code_debug_ranges = 0;
    config.use_hash_seed = 1; /* no wait for randomness; all input is the administrator's own */
    config.hash_seed = 0;
    config.module_search_paths_set = 1; /* and empty: nothing on the host is ever looked for */
    wchar_t **paths[] = {&config.executable, &config.base_executable, &config.prefix, &config.base_prefix,
                         &config.exec_prefix, &config.base_exec_prefix, &config.stdlib_dir};
    for (size_t i = 0; i < sizeof paths / sizeof *paths && !PyStatus_Exception(status); i++)
        status = PyConfig_SetString(&config, paths[i], L"");
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return status;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN); /* a runtime that closed our stderr must not kill us half-way */
    PyStatus status = start();
    if (PyStatus_Exception(status)) return defect(status.err_msg ? status.err_msg : "no reason given");
    PyGC_Disable(); /* the process is gone before there is garbage */
    PyImport_AddModule("encodings"); /* asked for at the first bad byte; UTF-8 is built in, so it may be empty */
    PyImport_ImportFrozenModule("__muslin__"); /* runs the plugin and exits */
    return defect("its program did not run");
}
