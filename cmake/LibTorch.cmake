# LibTorch from the PyPI wheel in the environment that launch/setup makes (TESSERA_ENV).
#
# The wheel's own TorchConfig.cmake insists on a CUDA toolkit, which a machine without a GPU does not have; a CPU build
# needs two of its libraries only, and starts a second sooner without the others. Hence the imported target made here.
set(TESSERA_ENV "$ENV{TESSERA_ENV}" CACHE PATH "the environment made by launch/setup")
if(DEFINED ENV{TESSERA_ENV} AND NOT "$ENV{TESSERA_ENV}" STREQUAL TESSERA_ENV)
  set(TESSERA_ENV "$ENV{TESSERA_ENV}" CACHE PATH "the environment made by launch/setup" FORCE)  # the pins have changed
endif()
file(GLOB torch_dirs "${TESSERA_ENV}/lib/python3*/site-packages/torch")
if(NOT torch_dirs)
  message(FATAL_ERROR "no LibTorch in TESSERA_ENV='${TESSERA_ENV}'; run launch/setup, which prints the path to set")
endif()
list(GET torch_dirs 0 TORCH_DIR)

find_package(OpenMP REQUIRED)
add_library(tessera_torch INTERFACE)
target_include_directories(tessera_torch SYSTEM INTERFACE ${TORCH_DIR}/include ${TORCH_DIR}/include/torch/csrc/api/include)
target_link_libraries(tessera_torch INTERFACE ${TORCH_DIR}/lib/libtorch_cpu.so ${TORCH_DIR}/lib/libc10.so OpenMP::OpenMP_CXX)
# libtorch_cpu needs libcudart and libcupti, which its own RPATH finds inside the environment.
target_link_options(tessera_torch INTERFACE -Wl,-rpath,${TORCH_DIR}/lib -Wl,--allow-shlib-undefined)

# One precompiled header for all: torch's headers cost 50 s a file without it.
if(NOT EXISTS ${CMAKE_BINARY_DIR}/pch/pch.cpp)  # writing it anew would rebuild everything
  file(WRITE ${CMAKE_BINARY_DIR}/pch/pch.cpp "")
endif()
add_library(tessera_pch OBJECT ${CMAKE_BINARY_DIR}/pch/pch.cpp)
target_link_libraries(tessera_pch PUBLIC tessera_options tessera_torch)
target_precompile_headers(tessera_pch PUBLIC <torch/torch.h>)

# LibTorch's CUDA part with the headers and libraries of the wheels beside it, where they are installed.
get_filename_component(site_packages ${TORCH_DIR} DIRECTORY)
set(NCCL_DIR ${site_packages}/nvidia/nccl)
file(GLOB CUDA_WHEEL_DIR "${site_packages}/nvidia/cu1*")
if(EXISTS ${NCCL_DIR}/include/nccl.h AND EXISTS ${CUDA_WHEEL_DIR}/include/cuda_runtime.h AND EXISTS ${TORCH_DIR}/lib/libtorch_cuda.so)
  add_library(tessera_torch_cuda INTERFACE)
  target_compile_definitions(tessera_torch_cuda INTERFACE USE_C10D_NCCL)
  target_include_directories(tessera_torch_cuda SYSTEM INTERFACE ${NCCL_DIR}/include ${CUDA_WHEEL_DIR}/include)
  target_link_libraries(tessera_torch_cuda INTERFACE tessera_torch -Wl,--no-as-needed ${TORCH_DIR}/lib/libtorch_cuda.so ${TORCH_DIR}/lib/libc10_cuda.so
                        -Wl,--as-needed)
endif()
if(TESSERA_CUDA AND NOT TARGET tessera_torch_cuda)
  message(FATAL_ERROR "TESSERA_CUDA=ON needs LibTorch's CUDA libraries in ${site_packages}; run launch/setup test, or launch/setup build on a machine with a GPU")
endif()
