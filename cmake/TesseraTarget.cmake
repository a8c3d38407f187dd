include(GNUInstallDirs)
# tessera_library(NAME SOURCES ... LINK ... [TORCH])
# One folder = one target = one namespace. TORCH: the folder uses LibTorch and its shared precompiled header.
function(tessera_library name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC tessera_options ${ARG_LINK})
  if(ARG_TORCH)
    tessera_use_torch(${name})
  endif()
  # Installed as tessera::<name without tessera_>, headers under include/tessera/<folder>.
  string(REPLACE tessera_ "" export_name ${name})
  set_target_properties(${name} PROPERTIES EXPORT_NAME ${export_name})
  install(TARGETS ${name} EXPORT tesseraTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  file(RELATIVE_PATH folder ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  install(DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/tessera/${folder}
          FILES_MATCHING PATTERN "*.h")
endfunction()

# Links LibTorch and reuses the one precompiled torch header.
function(tessera_use_torch name)
  target_link_libraries(${name} PUBLIC tessera_torch)
  tessera_precompile(${name})
endfunction()

# The precompiled torch header; with TESSERA_UNITY several sources at a time too, which share the instantiation of torch's templates.
function(tessera_precompile name)
  target_precompile_headers(${name} REUSE_FROM tessera_pch)
  set_target_properties(${name} PROPERTIES UNITY_BUILD ${TESSERA_UNITY} UNITY_BUILD_BATCH_SIZE 6)
endfunction()
